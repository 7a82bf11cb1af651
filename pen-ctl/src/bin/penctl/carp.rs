//! `penctl carp`: who has the virtual addresses that nodes share, and orders about them.

use clap::Subcommand;
use pen_ctl::api::carp::CarpOrder;
use pen_ctl::api::{CarpGroup, CarpWish, Request};
use pen_ctl::io::control::client::ClientError;
use pen_ctl::show::{self, Style};

use super::parse;

pub(super) const HELP: &str = "Examples:
  penctl carp                     all groups, and who is master
  penctl carp show main           everything about one
  penctl carp promote main        become master now, and stay before all others
  penctl carp demote main         hand over now, and stay behind all others
  penctl carp release main        take that back
  penctl events --follow          what happens, as it happens";

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// All groups, or everything about one
    Show {
        /// Name of the group
        group: Option<String>,
    },
    /// Become master of a group, and stay before all other nodes
    Promote(Order),
    /// Hand a group over, and stay behind all other nodes
    Demote(Order),
    /// Take back what was ordered of a group
    Release(Order),
}

#[derive(clap::Args)]
struct Order {
    /// Name of the group
    group: String,
    /// Only say what is ordered now
    #[arg(long)]
    dry_run: bool,
}

impl Order {
    fn request(&self, order: CarpOrder) -> Request {
        let (group, dry_run) = (self.group.clone(), self.dry_run);
        Request::CarpOrder(CarpWish { group, order, dry_run })
    }
}

impl Args {
    pub(super) fn request(&self) -> Request {
        match &self.verb {
            None | Some(Verb::Show { .. }) => Request::Carp,
            Some(Verb::Promote(wish)) => wish.request(CarpOrder::Promote),
            Some(Verb::Demote(wish)) => wish.request(CarpOrder::Demote),
            Some(Verb::Release(wish)) => wish.request(CarpOrder::Release),
        }
    }

    pub(super) fn render(&self, answer: &[u8], style: Style) -> Result<String, ClientError> {
        match &self.verb {
            None | Some(Verb::Show { group: None }) => {
                Ok(show::carp_groups(&parse::<Vec<_>>(answer)?, style))
            }
            Some(Verb::Show { group: Some(name) }) => {
                let groups = parse::<Vec<CarpGroup>>(answer)?;
                match groups.iter().find(|group| group.name == *name) {
                    Some(group) => Ok(show::carp_group(group, style)),
                    None => Err(ClientError::Refused(show::no_such_group(name, &groups))),
                }
            }
            Some(Verb::Promote(_) | Verb::Demote(_) | Verb::Release(_)) => {
                Ok(show::carp_ordered(&parse(answer)?))
            }
        }
    }
}
