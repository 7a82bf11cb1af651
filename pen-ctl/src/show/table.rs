//! Rows of cells: aligned columns with colour on a terminal, tab-separated values elsewhere.

use std::time::Duration;

/// How to show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Aligned columns, otherwise tab-separated.
    pub aligned: bool,
    /// Colour.
    pub colour: bool,
}

/// Rows of cells below a header.
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
}

pub(super) struct Cell {
    text: String,
    paint: Paint,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Header,
    Good,
    Bad,
    Odd,
}

impl Paint {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Header => "1",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Odd => "33",
        }
    }
}

pub(super) fn cell(text: impl ToString, paint: Paint) -> Cell {
    Cell { text: text.to_string(), paint }
}

pub(super) fn plain(text: impl ToString) -> Cell {
    cell(text, Paint::Plain)
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|text| cell(text, Paint::Header)).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn render(&self, style: Style) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                let last = column + 1 == row.len();
                text.push_str(&painted(cell, style));
                if last {
                    break;
                }
                if style.aligned {
                    let width = widths.get(column).copied().unwrap_or(0);
                    let pad = width.saturating_sub(cell.text.chars().count()) + 2;
                    text.push_str(&" ".repeat(pad));
                } else {
                    text.push('\t');
                }
            }
            let end = text.trim_end_matches(' ').len();
            text.truncate(end);
            text.push('\n');
        }
        text
    }
}

pub(super) fn painted(cell: &Cell, style: Style) -> String {
    if style.colour && cell.paint != Paint::Plain {
        format!("\x1b[{}m{}\x1b[0m", cell.paint.code(), cell.text)
    } else {
        cell.text.clone()
    }
}

/// A duration with its two largest units.
pub(super) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds == 0 => format!("{}ms", duration.as_millis()),
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_two_units() {
        for (seconds, text) in [(5, "5s"), (65, "1m5s"), (7300, "2h1m"), (200_000, "2d7h")] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
        assert_eq!(short(Duration::from_millis(250)), "250ms");
    }
}
