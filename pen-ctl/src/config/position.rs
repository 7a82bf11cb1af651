//! Where something stands in a file, as editors count lines and columns.

use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a file. An error of a whole file is at its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl Position {
    /// Line and column of an offset in a file's text.
    pub(super) fn find(file: &Path, text: &str, offset: usize) -> Self {
        // The parser may report the end of the text, never inside of a character; if it ever did,
        // a wrong column is better than a panic.
        let before = text.get(..offset).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            // No editor counts the byte order mark.
            column: line.chars().filter(|c| *c != '\u{feff}').count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}
