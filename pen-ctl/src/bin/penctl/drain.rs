//! `penctl drain`: a wish as others, with a deadline, and a wait until nothing is left.

use std::io::Write;
use std::time::Duration;

use pen_ctl::api::{Admin, Backend, Draining, Refusal, Request, SetAdmin};
use pen_ctl::io::control::client::{Client, ClientError};
use pen_ctl::show;

use super::{Args, Target, Wish, parse};

/// Pause between two looks at what is left.
const LOOK: Duration = Duration::from_millis(500);
/// Another daemon takes the place of one that ends within this time.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(super) struct Drain {
    #[command(flatten)]
    wish: Wish,
    /// End what is left after this time, e.g. 10m: the backend goes into maintenance then
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// Wait until nothing is left, and print how much there is whenever that changes
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

/// How far a drain is.
enum Stage {
    GoesOn(Draining),
    /// Nothing is left.
    Done(Draining),
    Revoked(String),
}

impl Drain {
    pub(super) fn request(&self) -> Request {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Request::SetAdmin(SetAdmin {
            service: self.wish.target.service.clone(),
            backend: self.wish.target.backend.clone(),
            admin: Admin::Drain,
            deadline_ms: self.deadline.map(millis),
            dry_run: self.wish.dry_run,
        })
    }

    /// If that is wished, returns when nothing is left; an error if somebody else ended the drain.
    pub(super) async fn wait(&self, args: &Args, mut client: Client) -> Result<(), ClientError> {
        if !self.wait {
            return Ok(());
        }
        let target = &self.wish.target;
        let mut printed = None;
        loop {
            let answer = match client.ask(&Request::Backends).await {
                Err(ClientError::Broken(_)) => {
                    client = again(args).await?;
                    continue;
                }
                answer => answer?,
            };
            let backends = parse::<Vec<Backend>>(&answer)?;
            let (left, done) = match stage(&backends, target) {
                Stage::GoesOn(left) => (left, false),
                Stage::Done(left) => (left, true),
                Stage::Revoked(error) => {
                    let cure = "drain it again, or look at `penctl events`".to_owned();
                    return Err(ClientError::Refused(Refusal { error, cure }));
                }
            };
            let seen = (left.left, left.connections, left.flows, left.clients, done);
            if printed != Some(seen) {
                print(args, target, &left);
                printed = Some(seen);
            }
            if done {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn stage(backends: &[Backend], target: &Target) -> Stage {
    let Target { service, backend } = target;
    let is_it = |found: &&Backend| found.service == *service && found.name == *backend;
    let Some(found) = backends.iter().find(is_it) else {
        return Stage::Revoked(format!(
            "{service}/{backend} is drained no more: the configuration no longer has it"
        ));
    };
    match (found.admin, found.draining.clone()) {
        (Admin::Drain, Some(left)) if left.empty => Stage::Done(left),
        (Admin::Drain, left) => Stage::GoesOn(left.unwrap_or_default()),
        (Admin::Maint, Some(left)) if left.over => Stage::Done(left),
        (admin, _) => Stage::Revoked(format!(
            "{service}/{backend} is drained no more: somebody has made it {admin}"
        )),
    }
}

fn print(args: &Args, Target { service, backend }: &Target, left: &Draining) {
    let subject = format!("{service}/{backend}");
    let line = if args.json {
        serde_json::json!({ "subject": subject, "draining": left }).to_string()
    } else {
        format!("{subject}: {}", show::draining(left))
    };
    // A reader that closed the pipe has seen enough.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The daemon has ended; perhaps another one takes its place.
async fn again(args: &Args) -> Result<Client, ClientError> {
    let connects = async {
        loop {
            match Client::connect(&args.socket).await {
                Err(ClientError::Unreachable { .. }) => tokio::time::sleep(LOOK).await,
                result => return result,
            }
        }
    };
    match tokio::time::timeout(PATIENCE, connects).await {
        Ok(result) => result,
        Err(_) => Client::connect(&args.socket).await,
    }
}
