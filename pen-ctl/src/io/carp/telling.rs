//! What the thread tells the daemon. A daemon that does not follow is not waited for: roles are told
//! later, as they are then, and of everything else how much was left out.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tokio::sync::mpsc;

use crate::engine::carp::Role;
use crate::engine::event::Event;

/// The way to the daemon.
#[derive(Debug)]
pub(super) struct Telling {
    events: mpsc::Sender<Event>,
    behind: RefCell<Behind>,
}

/// What there was no room for.
#[derive(Debug, Default)]
struct Behind {
    roles: BTreeMap<u32, Role>,
    missed: u64,
}

impl Telling {
    pub(super) fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events, behind: RefCell::default() }
    }

    /// Tells that a group has another role.
    pub(super) fn role(&self, group: u32, role: Role) {
        self.behind.borrow_mut().roles.insert(group, role);
        self.catch_up();
    }

    /// Tells something for the log and the journal.
    pub(super) fn tell(&self, warning: bool, kind: &'static str, subject: &str, text: String) {
        self.send(Event::CarpTold { warning, kind, subject: subject.to_owned(), text });
    }

    pub(super) fn send(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.behind.borrow_mut().missed += 1;
        }
    }

    /// Tells what there was no room for, as far as there is now.
    pub(super) fn catch_up(&self) {
        let mut behind = self.behind.borrow_mut();
        while let Some((group, role)) = behind.roles.pop_first() {
            if self.events.try_send(Event::CarpRole { group, role }).is_err() {
                behind.roles.insert(group, role);
                return;
            }
        }
        if behind.missed > 0 {
            let text = format!("{} messages of CARP were left out", behind.missed);
            let (warning, kind, subject) = (true, "carp-missed", "carp".to_owned());
            let told = self.events.try_send(Event::CarpTold { warning, kind, subject, text });
            if told.is_ok() {
                behind.missed = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_did_not_follow_is_told_the_roles_and_how_much_it_missed() {
        let (events, mut heard) = mpsc::channel(2);
        let telling = Telling::new(events);
        let say = |text: &str| telling.tell(false, "carp-master", "main", text.to_owned());
        let texts = |heard: &mut mpsc::Receiver<Event>| {
            std::iter::from_fn(|| heard.try_recv().ok())
                .map(|event| match event {
                    Event::CarpTold { text, .. } => text,
                    Event::CarpRole { group, role } => format!("{group} {role:?}"),
                    other => format!("{other:?}"),
                })
                .collect::<Vec<_>>()
        };
        for text in ["a", "b", "c", "d"] {
            say(text);
        }
        telling.role(1, Role::Master);
        telling.role(1, Role::Backup);
        assert_eq!(texts(&mut heard), ["a", "b"]);
        telling.catch_up();
        assert_eq!(texts(&mut heard), ["1 Backup", "2 messages of CARP were left out"]);
        telling.catch_up();
        assert_eq!(texts(&mut heard), Vec::<String>::new());
    }
}
