//! Speaks SMTP with a server as far as its greeting and what it offers (RFC 5321). Bytes come in,
//! what is to be said comes out.

use super::{other, quoted};
use crate::engine::event::ProbeError;

/// Longest reply that is read; RFC 5321 section 4.5.3.1.5 allows 512 bytes to each line.
const LONGEST: usize = 16 * 1024;

/// A conversation.
#[derive(Debug)]
pub struct Dialogue {
    hello: String,
    heard: Vec<u8>,
    greeted: bool,
}

/// How it goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// More is to be heard.
    Listen,
    /// This is to be said, and the answer to be heard.
    Say(String),
    /// The server is well; this is to be said for a farewell.
    Done(&'static str),
}

impl Dialogue {
    /// Begins one; `hello` is how this machine calls itself.
    #[must_use]
    pub fn new(hello: &str) -> Self {
        Self { hello: hello.to_owned(), heard: Vec::new(), greeted: false }
    }

    /// Takes what the server said.
    ///
    /// # Errors
    ///
    /// If it is not what a server says that takes mail.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Step, ProbeError> {
        self.heard.extend_from_slice(bytes);
        let Some((code, length)) = reply(&self.heard)? else {
            return match self.heard.len() {
                LONGEST.. => Err(other("more than 16 KiB", "a reply of SMTP")),
                _ => Ok(Step::Listen),
            };
        };
        let wanted = if self.greeted { 250 } else { 220 };
        if code != wanted {
            return Err(other(quoted(&self.heard[..length]), wanted.to_string()));
        }
        self.heard.drain(..length);
        if self.greeted {
            return Ok(Step::Done("QUIT\r\n"));
        }
        self.greeted = true;
        Ok(Step::Say(format!("EHLO {}\r\n", self.hello)))
    }
}

/// The code of a whole reply, and its length; `None` if there is more to come.
fn reply(heard: &[u8]) -> Result<Option<(u16, usize)>, ProbeError> {
    let mut length = 0;
    let mut first = None;
    for line in heard.split_inclusive(|byte| *byte == b'\n') {
        let Some(text) = line.strip_suffix(b"\n") else { return Ok(None) };
        length += line.len();
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let code = text.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let code = code.and_then(|digits| digits.parse().ok());
        let same = |code: &u16| first.is_none_or(|first| first == *code);
        let Some(code) = code.filter(same) else {
            return Err(other(quoted(text), "a reply of SMTP"));
        };
        first = Some(code);
        match text.get(3) {
            None | Some(b' ') => return Ok(Some((code, length))),
            Some(b'-') => {}
            Some(_) => return Err(other(quoted(text), "a reply of SMTP")),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is said to a server that says these things.
    fn talk(said: &[&str]) -> Result<Vec<Step>, String> {
        let mut dialogue = Dialogue::new("pen.example");
        let steps = said.iter().map(|said| dialogue.hear(said.as_bytes()));
        steps.collect::<Result<_, _>>().map_err(|error| error.to_string())
    }

    fn ehlo() -> Step {
        Step::Say("EHLO pen.example\r\n".to_owned())
    }

    #[test]
    fn a_server_that_greets_and_offers_is_well() {
        let bye = || Step::Done("QUIT\r\n");
        assert_eq!(talk(&["220 mail ready\r\n", "250 hello\r\n"]), Ok(vec![ehlo(), bye()]));
        let said = ["220-mail\r\n220", " ready\r\n", "250-mail\r\n250-PIPELINING\r\n250 HELP\r\n"];
        assert_eq!(talk(&said), Ok(vec![Step::Listen, ehlo(), bye()]));
        assert_eq!(talk(&["220\r\n", "250\n"]), Ok(vec![ehlo(), bye()]));
    }

    #[test]
    fn each_other_answer_is_told_in_the_servers_words() {
        for (said, error) in [
            (&["554 go away\r\n"][..], r#"answered "554 go away", expected 220"#),
            (&["220 ok\r\n", "421 busy\r\n"], r#"answered "421 busy", expected 250"#),
            (&["HTTP/1.1 400\r\n"], r#"answered "HTTP/1.1 400", expected a reply of SMTP"#),
            (&["220-a\r\n250 b\r\n"], r#"answered "250 b", expected a reply of SMTP"#),
            (&["2200\r\n"], r#"answered "2200", expected a reply of SMTP"#),
            (&["+12 \r\n"], r#"answered "+12", expected a reply of SMTP"#),
        ] {
            assert_eq!(talk(said), Err(error.to_owned()));
        }
    }

    #[test]
    fn a_reply_without_an_end_is_not_read_for_ever() {
        let line = "220-again\r\n".repeat(2000);
        let error = talk(&[&line]).expect_err("it never ends");
        assert_eq!(error, "answered more than 16 KiB, expected a reply of SMTP");
    }

    proptest! {
        #[test]
        fn nothing_that_is_said_makes_a_panic(said: Vec<Vec<u8>>) {
            let mut dialogue = Dialogue::new("pen");
            for said in said {
                if dialogue.hear(&said).is_err() {
                    break;
                }
            }
        }

        #[test]
        fn it_is_all_the_same_where_a_reply_is_cut(cut in 0_usize..30) {
            let said = b"220-mail.example\r\n220 ready\r\n";
            let cut = cut.min(said.len());
            let mut dialogue = Dialogue::new("pen.example");
            let first = dialogue.hear(&said[..cut]);
            let step = if cut == said.len() { first } else { dialogue.hear(&said[cut..]) };
            prop_assert_eq!(step, Ok(ehlo()));
        }
    }
}
