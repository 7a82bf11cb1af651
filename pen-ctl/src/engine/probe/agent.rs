//! What an agent on a server says of it, in the words of HAProxy's agents: one line of them, with blanks
//! or commas between.

use super::{other, quoted};
use crate::api::Admin;
use crate::engine::event::ProbeError;

/// Longest line that is read.
pub const LONGEST: usize = 1024;
/// Highest share of the configured weight, in percent.
const MAX_PERCENT: u32 = 25_600;

/// What an agent said. Of what it did not speak, its last word holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// `ready`, `drain` or `maint`.
    pub admin: Option<Admin>,
    /// Whether the server is up, or the words by which it is not.
    pub up: Option<Result<(), String>>,
    /// Share of the configured weight, in percent.
    pub percent: Option<u32>,
    /// Most connections at a time.
    pub max_connections: Option<u32>,
}

impl Said {
    /// Reads what came, up to the end of the first line.
    ///
    /// # Errors
    ///
    /// If it is not what an agent says.
    pub fn parse(heard: &[u8]) -> Result<Self, ProbeError> {
        let line = heard.split(|byte| b"\r\n".contains(byte)).next().unwrap_or_default();
        let wrong = || other(quoted(line), "words of an agent, such as up, drain or 50%");
        let text = std::str::from_utf8(line).map_err(|_| wrong())?;
        let (text, reason) = match text.split_once('#') {
            Some((text, reason)) => (text, Some(reason.trim())),
            None => (text, None),
        };
        let mut said = Self::default();
        for word in text.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
            said.take(&word.to_ascii_lowercase(), reason).ok_or_else(wrong)?;
        }
        if said == Self::default() { Err(wrong()) } else { Ok(said) }
    }

    fn take(&mut self, word: &str, reason: Option<&str>) -> Option<()> {
        match word {
            "ready" => self.admin = Some(Admin::Ready),
            "drain" => self.admin = Some(Admin::Drain),
            "maint" => self.admin = Some(Admin::Maint),
            "up" => self.up = Some(Ok(())),
            "down" | "fail" | "stopped" => {
                let reason = reason.filter(|reason| !reason.is_empty());
                let reason = reason.map(|reason| format!(": {}", quoted(reason.as_bytes())));
                self.up = Some(Err(format!("{word}{}", reason.unwrap_or_default())));
            }
            _ => match (word.strip_suffix('%'), word.strip_prefix("maxconn:")) {
                (Some(share), None) => {
                    let percent = number(share.strip_prefix("weight:").unwrap_or(share))?;
                    self.percent = Some(percent.min(MAX_PERCENT));
                }
                (None, Some(most)) => self.max_connections = Some(number(most)?),
                _ => return None,
            },
        }
        Some(())
    }

    /// Takes what was said last; whether that is news.
    pub fn update(&mut self, last: Self) -> bool {
        let before = self.clone();
        self.admin = last.admin.or(self.admin);
        self.up = last.up.or_else(|| self.up.take());
        self.percent = last.percent.or(self.percent);
        self.max_connections = last.max_connections.or(self.max_connections);
        *self != before
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let up = self.up.as_ref().map(|up| up.as_ref().err().map_or("up", String::as_str));
        let words = [
            self.admin.map(|admin| admin.to_string()),
            up.map(str::to_owned),
            self.percent.map(|percent| format!("{percent}%")),
            self.max_connections.map(|most| format!("maxconn:{most}")),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// Digits alone: without the sign that Rust would take.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_words_of_haproxys_agents_are_understood() {
        for (heard, shown) in [
            ("up\n", "up"),
            ("UP", "up"),
            ("ready up 75%\r\nmore", "ready, up, 75%"),
            ("up,maxconn:30\t50%", "up, 50%, maxconn:30"),
            ("weight:50%", "50%"),
            ("drain", "drain"),
            ("maint", "maint"),
            ("down", "down"),
            ("stopped #", "stopped"),
            ("fail # disk is full\n", "fail: \"disk is full\""),
            ("down#\x1b[31m", r#"down: "\u{1b}[31m""#),
            ("100000%", "25600%"),
            ("0%", "0%"),
        ] {
            let said = Said::parse(heard.as_bytes()).map(|said| said.to_string());
            assert_eq!(said.as_deref(), Ok(shown), "{heard:?}");
        }
    }

    #[test]
    fn what_is_no_such_word_is_shown_and_nothing_of_the_line_counts() {
        for (heard, shown) in [
            ("up please\n", "\"up please\""),
            ("", "\"\""),
            ("# up", "\"# up\""),
            ("-5%", "\"-5%\""),
            ("+5%", "\"+5%\""),
            ("%", "\"%\""),
            ("maxconn:", "\"maxconn:\""),
            ("maxconn:5%", "\"maxconn:5%\""),
            ("99999999999%", "\"99999999999%\""),
            ("HTTP/1.1 400 Bad Request\r\n", "\"HTTP/1.1 400 Bad Request\""),
        ] {
            let error = Said::parse(heard.as_bytes()).expect_err("no words").to_string();
            let expected = "expected words of an agent, such as up, drain or 50%";
            assert_eq!(error, format!("answered {shown}, {expected}"));
        }
    }

    #[test]
    fn of_what_it_does_not_speak_its_last_word_holds() {
        let mut said = Said::default();
        let hear = |said: &mut Said, line: &str| {
            let news = said.update(Said::parse(line.as_bytes()).expect("words"));
            (news, said.to_string())
        };
        assert_eq!(hear(&mut said, "drain 50%"), (true, "drain, 50%".to_owned()));
        assert_eq!(hear(&mut said, "up"), (true, "drain, up, 50%".to_owned()));
        assert_eq!(hear(&mut said, "up 50%"), (false, "drain, up, 50%".to_owned()));
        assert_eq!(hear(&mut said, "ready down"), (true, "ready, down, 50%".to_owned()));
    }

    proptest! {
        #[test]
        fn nothing_that_is_said_makes_a_panic(heard: Vec<u8>) {
            let _ = Said::parse(&heard);
        }
    }
}
