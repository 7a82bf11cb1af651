//! `pend carp`: one group and nothing else, in the place of a ucarp process. No XDP, no maps, no
//! control socket; signals mean what they meant to ucarp.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::{FAREWELL, random_secret};
use crate::api::Reply;
use crate::api::carp::{CarpGroup, CarpOrder, CarpState, CarpWish};
use crate::config::{AddressesBy, Config};
use crate::engine::carp::{Start, from_config};
use crate::engine::event::{Event, Group};
use crate::io::carp::{Beginning, Command, Question, Thread};
use crate::io::privileges;

/// Events that may wait for the loop.
const EVENTS: usize = 256;
/// After it gave the address up it takes part again, as ucarp does.
const STEPPED_BACK: Duration = Duration::from_secs(3);
/// ucarp's group has no number in a map of the kernel.
const GROUP: u32 = 1;

/// Runs until a signal ends it, as ucarp does: SIGTERM, SIGINT, SIGQUIT or SIGHUP.
///
/// # Errors
///
/// If the system does not let it, or the thread that does it all ends.
#[expect(clippy::disallowed_methods, reason = "sequence numbers begin with the time of day")]
pub async fn run(config: Config) -> anyhow::Result<()> {
    privileges::check_carp().map_err(|missing| anyhow!("{missing}"))?;
    let Signals { mut ends, show: mut shows, demote: mut demotes } = Signals::new()?;
    let [random, node] = random_secret()?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (events, mut news) = mpsc::channel(EVENTS);
    let mut thread = Thread::start(Beginning {
        start: Start { node, random, sequence: seconds << 32 },
        writer: Box::new(|_, _| Ok(())),
        adopted: BTreeMap::new(),
        // Others of its kind may run beside it.
        mark: 0,
        events,
    })
    .context("the thread of CARP")?;
    let usable = Command::Usable { group: GROUP, result: Ok(()) };
    if !(thread.tell(Command::Configure(groups(&config))) && thread.tell(usable)) {
        return Err(anyhow!("the thread of CARP has ended"));
    }
    let name = config.carp.first().map(|group| group.name.clone()).unwrap_or_default();
    let mut back: Option<Instant> = None;
    loop {
        tokio::select! {
            event = news.recv() => match event {
                Some(event) => log(event),
                None => return Err(anyhow!("the thread of CARP has ended")),
            },
            _ = shows.recv() => {
                if let Some(group) = show(&thread).await {
                    let state = group.state.to_string().to_uppercase();
                    tracing::info!("{state} on {} vhid {}", group.interface, group.vhid);
                }
            }
            _ = demotes.recv() => match show(&thread).await {
                Some(group) if group.state == CarpState::Master => {
                    tracing::info!("SIGUSR2: giving the address up");
                    order(&thread, &name, CarpOrder::Demote).await;
                    back = Some(Instant::now() + STEPPED_BACK);
                }
                _ => tracing::info!("SIGUSR2: not master, so there is nothing to give up"),
            },
            // An order that lasts would be more than the signal asked for.
            () = sleep_until(back.unwrap_or_else(Instant::now)), if back.is_some() => {
                order(&thread, &name, CarpOrder::Release).await;
                back = None;
            }
            () = ends.recv() => break,
        }
    }
    thread.tell(Command::Stop);
    thread.ended().await;
    while let Ok(event) = news.try_recv() {
        log(event);
    }
    Ok(())
}

fn groups(config: &Config) -> Vec<Group> {
    let settings = from_config::settings(config, [0, 0], |_| GROUP);
    let groups = settings.into_iter().zip(&config.carp);
    groups
        .map(|(settings, group)| Group {
            local: match group.addresses {
                AddressesBy::Pen => settings.vips.clone(),
                AddressesBy::Hooks => Vec::new(),
            },
            hooks: group.hooks.clone(),
            settings,
        })
        .collect()
}

async fn ask(thread: &Thread, question: Question) -> Option<Reply> {
    let (answer, reply) = oneshot::channel();
    thread.tell(Command::Ask(question, answer));
    timeout(FAREWELL, reply).await.ok()?.ok()?.ok()
}

async fn show(thread: &Thread) -> Option<CarpGroup> {
    match ask(thread, Question::Show).await? {
        Reply::Carp(groups) => groups.into_iter().next(),
        _ => None,
    }
}

async fn order(thread: &Thread, group: &str, order: CarpOrder) {
    let wish = CarpWish { group: group.to_owned(), order, dry_run: false };
    ask(thread, Question::Order(wish)).await;
}

fn log(event: Event) {
    match event {
        Event::CarpTold { warning: true, subject, text, .. } => {
            tracing::warn!("{subject}: {text}");
        }
        Event::CarpTold { warning: false, subject, text, .. } => {
            tracing::info!("{subject}: {text}");
        }
        Event::CarpHindered(reasons) => {
            for reason in reasons {
                tracing::warn!("{reason}");
            }
        }
        Event::CarpRole { role, .. } => tracing::debug!("role: {role:?}"),
        _ => {}
    }
}

struct Signals {
    ends: Ends,
    show: Signal,
    demote: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            ends: Ends([
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::quit())?,
                signal(SignalKind::hangup())?,
            ]),
            show: signal(SignalKind::user_defined1())?,
            demote: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Those that end it.
struct Ends([Signal; 4]);

impl Ends {
    async fn recv(&mut self) {
        let Self([terminate, interrupt, quit, hangup]) = self;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
