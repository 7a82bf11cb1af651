//! Tells a program: of the event in its environment, and as JSON on its standard input.

use std::time::Duration;

use super::{Told, json};
use crate::config::Exec;
use crate::engine::probe::exec::judge;
use crate::io::program::Running;

pub(super) async fn tell(exec: &Exec, told: &Told<'_>, limit: Duration) -> Result<(), String> {
    let environment = [
        ("PEN_NODE", told.node.to_owned()),
        ("PEN_EVENT", told.event.to_owned()),
        ("PEN_SUBJECT", told.subject.to_owned()),
        ("PEN_TEXT", told.text.replace('\0', " ")),
        ("PEN_SEVERITY", told.severity.to_owned()),
        ("PEN_TIME", told.time.to_string()),
        ("PEN_SEQUENCE", told.sequence.to_string()),
        ("PEN_LEFT_OUT", told.left_out.to_string()),
    ];
    let name = exec.program();
    let mut input = json(told);
    input.push(b'\n');
    let started = Running::start(exec, &environment, true).await;
    let mut program = started.map_err(|error| format!("{name}: {error}"))?;
    match tokio::time::timeout(limit, program.end(&input)).await {
        Ok(Ok(status)) => {
            judge(status.code(), &program.said).map_err(|error| format!("{name} {error}"))
        }
        Ok(Err(error)) => Err(format!("{name}: {error}")),
        Err(_elapsed) => {
            program.stop().await;
            let limit = humantime::format_duration(limit);
            Err(format!("{name} did not end within {limit}, and was killed"))
        }
    }
}
