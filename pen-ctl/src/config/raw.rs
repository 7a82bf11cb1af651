//! TOML tables as the rest of `config` reads them: every value knows its place, and a value that
//! cannot be read has been reported by the time its reader hears of it ([`Reported`]). Reading goes
//! on after an error, so that the operator sees all of them at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::hash::Hash;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::error::{ConfigError, ErrorKind};
use crate::config::load::Source;
use crate::config::not_built;
use crate::config::position::Position;
use crate::config::words::Word;

/// A place in the sources; ordered as an operator reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    source: usize,
    offset: usize,
}

impl Place {
    /// Where something is said to be that no file mentions.
    pub(super) const START: Self = Self { source: 0, offset: 0 };

    pub(super) const fn new(source: usize, offset: usize) -> Self {
        Self { source, offset }
    }
}

/// A value and where it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    pub(super) place: Place,
    pub(super) value: T,
}

/// Proof that an error has been reported. Only [`Report::add`] makes one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported(());

/// What a reader returns.
pub(super) type Read<T> = Result<T, Reported>;

// === Report ===

/// The errors found so far.
#[derive(Debug)]
pub(super) struct Report<'s> {
    sources: &'s [Source],
    errors: Vec<(Place, ErrorKind)>,
}

impl<'s> Report<'s> {
    pub(super) const fn new(sources: &'s [Source]) -> Self {
        Self { sources, errors: Vec::new() }
    }

    pub(super) fn add(&mut self, place: Place, kind: ErrorKind) -> Reported {
        self.errors.push((place, kind));
        Reported(())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Line and column of a place.
    pub(super) fn position(&self, place: Place) -> Position {
        match self.sources.get(place.source) {
            Some(source) => Position::find(&source.name, &source.text, place.offset),
            None => Position::find(Path::new(""), "", 0),
        }
    }

    /// A path relative to the file of a place.
    pub(super) fn beside(&self, place: Place, path: &str) -> PathBuf {
        match self.sources.get(place.source) {
            Some(source) => source.name.with_file_name(path),
            None => path.into(),
        }
    }

    /// The errors in the order of the files. A pool that two services use may have reported the
    /// same error twice.
    pub(super) fn into_errors(mut self) -> Vec<ConfigError> {
        let mut errors = std::mem::take(&mut self.errors);
        errors.sort_by_key(|(place, _)| *place);
        errors.dedup();
        errors
            .into_iter()
            .map(|(place, kind)| ConfigError { at: self.position(place), kind })
            .collect()
    }
}

// === Table ===

/// What a table may hold.
#[derive(Debug)]
pub(super) struct Spec {
    /// Name in [`not_built`], and the key that holds such tables.
    pub(super) name: &'static str,
    /// What error messages call it.
    pub(super) title: &'static str,
    /// Its keys.
    pub(super) keys: &'static [&'static str],
}

/// The keys of a table that several files read, one group after the other. `N` is how many there are.
pub(super) const fn joined<const N: usize>(groups: &[&[&'static str]]) -> [&'static str; N] {
    let mut all = [""; N];
    let (mut count, mut group) = (0, 0);
    while group < groups.len() {
        let mut key = 0;
        while key < groups[group].len() {
            all[count] = groups[group][key];
            (count, key) = (count + 1, key + 1);
        }
        group += 1;
    }
    // A constant: what is forgotten does not compile.
    assert!(count == N);
    all
}

/// A table, its keys already checked against its [`Spec`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'d> {
    pub(super) place: Place,
    spec: &'static Spec,
    entries: &'d DeTable<'d>,
    /// Set if it has unknown keys.
    unknown: Option<Reported>,
}

impl<'d> Table<'d> {
    /// Reports the keys that the table should not have.
    pub(super) fn open(
        spec: &'static Spec,
        place: Place,
        entries: &'d DeTable<'d>,
        report: &mut Report<'_>,
    ) -> Self {
        let mut unknown = None;
        for key in entries.keys() {
            let (at, key) = (Place::new(place.source, key.span().start), key.get_ref());
            if spec.keys.contains(&&**key) {
                continue;
            }
            let kind = match not_built::key(spec.name, key) {
                Some(instead) => ErrorKind::NotBuiltIn { what: key.to_string(), instead },
                None => ErrorKind::UnknownKey {
                    key: key.to_string(),
                    table: spec.title,
                    near: nearest(key, spec.keys),
                    valid: spec.keys.to_vec(),
                },
            };
            unknown = Some(report.add(at, kind));
        }
        Self { place, spec, entries, unknown }
    }

    /// The keys that are there, in the order of the file.
    pub(super) fn keys(&self) -> impl Iterator<Item = At<&'d str>> {
        let mut all: Vec<_> = self.entries.keys().collect();
        all.sort_by_key(|key| key.span().start);
        let source = self.place.source;
        all.into_iter().map(move |key| At {
            place: Place::new(source, key.span().start),
            value: &**key.get_ref(),
        })
    }

    /// The value of a key, of whatever type.
    pub(super) fn get(&self, key: &str) -> Option<At<&'d DeValue<'d>>> {
        self.entries.get(key).map(|value| self.at(value))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn text(&self, key: &str, report: &mut Report<'_>) -> Read<Option<At<&'d str>>> {
        self.get(key).map(|value| text(value, "a string in quotes", report)).transpose()
    }

    /// A string that must be there; `example` is how the message shows it.
    pub(super) fn required_text(
        &self,
        key: &'static str,
        example: &'static str,
        report: &mut Report<'_>,
    ) -> Read<At<&'d str>> {
        self.text(key, report)?.ok_or_else(|| self.lacks(key, example, report))
    }

    /// Reports that a key is missing.
    pub(super) fn lacks(
        &self,
        key: &'static str,
        example: &'static str,
        report: &mut Report<'_>,
    ) -> Reported {
        let table = self.spec.title;
        let kind = || ErrorKind::MissingKey { table, key, example };
        self.misspelt(key).unwrap_or_else(|| report.add(self.place, kind()))
    }

    /// If a key seems to be there with a typing error: the report of that.
    pub(super) fn misspelt(&self, key: &str) -> Option<Reported> {
        let meant = |other: &str| {
            !self.spec.keys.contains(&other)
                && nearest(other, self.spec.keys).is_some_and(|near| near == key)
        };
        self.unknown.filter(|_| self.entries.keys().any(|other| meant(other.get_ref())))
    }

    pub(super) fn integer(
        &self,
        key: &'static str,
        range: RangeInclusive<u32>,
        report: &mut Report<'_>,
    ) -> Read<Option<u32>> {
        let Some(At { place, value }) = self.get(key) else { return Ok(None) };
        let DeValue::Integer(integer) = value else {
            return Err(wrong_type(place, "an integer without quotes", value, report));
        };
        // The parser has removed prefix and underscores.
        u32::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|number| range.contains(number))
            .map(Some)
            .ok_or_else(|| {
                let (min, max) = (range.start().to_string(), range.end().to_string());
                report
                    .add(place, ErrorKind::OutOfRange { key, found: integer.to_string(), min, max })
            })
    }

    /// True or false.
    pub(super) fn boolean(&self, key: &str, report: &mut Report<'_>) -> Read<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(At { value: DeValue::Boolean(value), .. }) => Ok(Some(*value)),
            Some(At { place, value }) => Err(wrong_type(place, "true or false", value, report)),
        }
    }

    /// One of the words of an enum.
    pub(super) fn word<W: Word>(
        &self,
        key: &'static str,
        report: &mut Report<'_>,
    ) -> Read<Option<W>> {
        let Some(At { place, value: word }) = self.text(key, report)? else { return Ok(None) };
        if let Some(value) = W::find(word) {
            return Ok(Some(value));
        }
        let kind = match not_built::value(self.spec.name, key, word) {
            Some(instead) => ErrorKind::NotBuiltIn { what: format!("{key} = \"{word}\""), instead },
            None => ErrorKind::UnknownWord {
                key,
                found: word.to_owned(),
                near: nearest(word, &W::names()),
                valid: W::names(),
            },
        };
        Err(report.add(place, kind))
    }

    /// A table inside this one, `key = { ... }` or `[key]`.
    pub(super) fn table(
        &self,
        key: &str,
        spec: &'static Spec,
        report: &mut Report<'_>,
    ) -> Read<Option<Self>> {
        let Some(At { place, value }) = self.get(key) else { return Ok(None) };
        let DeValue::Table(entries) = value else {
            let expected = match spec.title.starts_with('[') {
                true => format!("a table, written `{}`", spec.title),
                false => "a table, written `{ key = value, ... }`".to_owned(),
            };
            return Err(wrong_type(place, &expected, value, report));
        };
        Ok(Some(Self::open(spec, place, entries, report)))
    }

    /// All tables of an array `[[key]]`.
    pub(super) fn tables(&self, spec: &'static Spec, report: &mut Report<'_>) -> Vec<Read<Self>> {
        let expected = format!("an array of tables, written `{}`", spec.title);
        let Some(At { place, value }) = self.get(spec.name) else { return Vec::new() };
        let DeValue::Array(array) = value else {
            return vec![Err(wrong_type(place, &expected, value, report))];
        };
        let elements = array.iter().map(|element| self.at(element));
        elements
            .map(|At { place, value }| match value {
                DeValue::Table(entries) => Ok(Self::open(spec, place, entries, report)),
                _ => Err(wrong_type(place, &expected, value, report)),
            })
            .collect()
    }

    /// The elements of an array, of whatever types, and where the array is.
    pub(super) fn array(
        &self,
        key: &str,
        report: &mut Report<'_>,
    ) -> Read<Option<At<Vec<At<&'d DeValue<'d>>>>>> {
        let Some(At { place, value }) = self.get(key) else { return Ok(None) };
        let DeValue::Array(array) = value else {
            return Err(wrong_type(place, "an array, written `[...]`", value, report));
        };
        Ok(Some(At { place, value: array.iter().map(|element| self.at(element)).collect() }))
    }

    fn at(&self, value: &'d Spanned<DeValue<'d>>) -> At<&'d DeValue<'d>> {
        let place = Place::new(self.place.source, value.span().start);
        At { place, value: value.get_ref() }
    }
}

/// A table that is an element of an array, or a report that names what was expected.
pub(super) fn element<'d>(
    At { place, value }: At<&'d DeValue<'d>>,
    spec: &'static Spec,
    expected: &str,
    report: &mut Report<'_>,
) -> Read<Table<'d>> {
    match value {
        DeValue::Table(entries) => Ok(Table::open(spec, place, entries, report)),
        _ => Err(wrong_type(place, expected, value, report)),
    }
}

/// A string, or a report that names what was expected.
pub(super) fn text<'d>(
    At { place, value }: At<&'d DeValue<'d>>,
    expected: &str,
    report: &mut Report<'_>,
) -> Read<At<&'d str>> {
    match value {
        DeValue::String(text) => Ok(At { place, value: text }),
        _ => Err(wrong_type(place, expected, value, report)),
    }
}

/// The texts of an array.
pub(super) fn texts<'d>(
    table: &Table<'d>,
    key: &str,
    report: &mut Report<'_>,
) -> Read<Option<At<Vec<At<&'d str>>>>> {
    let Some(At { place, value }) = table.array(key, report)? else { return Ok(None) };
    let texts: Vec<_> =
        value.into_iter().map(|found| text(found, "a string in quotes", report)).collect();
    let value = texts.into_iter().collect::<Read<Vec<_>>>()?;
    Ok(Some(At { place, value }))
}

pub(super) fn wrong_type(
    place: Place,
    expected: &str,
    found: &DeValue<'_>,
    report: &mut Report<'_>,
) -> Reported {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    report.add(place, ErrorKind::WrongType { expected: expected.to_owned(), found })
}

/// What a table holds whose keys are the operator's own, in the order of the file.
pub(super) fn entries<'d>(
    place: Place,
    table: &'d DeTable<'d>,
) -> impl Iterator<Item = (&'d str, At<&'d DeValue<'d>>)> {
    let mut all: Vec<_> = table.iter().collect();
    all.sort_by_key(|(key, _)| key.span().start);
    all.into_iter().map(move |(key, value)| {
        let place = Place::new(place.source, value.span().start);
        (&**key.get_ref(), At { place, value: value.get_ref() })
    })
}

// === Names ===

/// Names that have been given, and where first.
#[derive(Debug)]
pub(super) struct Names<K> {
    /// What is named, for messages.
    what: &'static str,
    first: HashMap<K, Place>,
    /// Set if a name could not be read: one that is not found may be that one, and to report it
    /// would be to report one error twice.
    lost: Option<Reported>,
}

impl<K: Display + Eq + Hash> Names<K> {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, first: HashMap::new(), lost: None }
    }

    /// Takes the name that was read, unless it is taken.
    pub(super) fn claim(&mut self, name: Read<At<K>>, report: &mut Report<'_>) -> Read<At<K>>
    where
        K: Clone,
    {
        let At { place, value } = name.inspect_err(|reported| self.lost = Some(*reported))?;
        match self.first.entry(value.clone()) {
            Entry::Vacant(free) => {
                free.insert(place);
                Ok(At { place, value })
            }
            Entry::Occupied(taken) => {
                let (name, first) = (value.to_string(), report.position(*taken.get()));
                Err(report.add(place, ErrorKind::Duplicate { what: self.what, name, first }))
            }
        }
    }

    /// Where a name was given.
    pub(super) fn find(&self, name: &K) -> Option<Place> {
        self.first.get(name).copied()
    }

    /// Reports, at `place`, a name that was never given.
    pub(super) fn missing(
        &self,
        place: Place,
        kind: impl FnOnce() -> ErrorKind,
        report: &mut Report<'_>,
    ) -> Reported {
        self.lost.unwrap_or_else(|| report.add(place, kind()))
    }

    /// All names in the order in which they were given.
    pub(super) fn in_order(&self) -> Vec<&K> {
        let mut all: Vec<_> = self.first.iter().collect();
        all.sort_by_key(|(_, place)| **place);
        all.into_iter().map(|(name, _)| name).collect()
    }
}

/// Reads a name that penctl and the logs use.
pub(super) fn name(at: At<&str>, report: &mut Report<'_>) -> Read<At<String>> {
    // No '/', because penctl says SERVICE/BACKEND; ':' because addresses are names too.
    let valid = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    let At { place, value } = at;
    if value.is_empty() || value.len() > 64 || !value.chars().all(valid) {
        return Err(report.add(place, ErrorKind::InvalidName { name: value.to_owned() }));
    }
    Ok(At { place, value: value.to_owned() })
}

/// The candidate that was probably meant, if one is near.
pub(super) fn nearest<C: AsRef<str>>(word: &str, candidates: &[C]) -> Option<String> {
    // A typing error or two in a word; the limit also bounds the time for absurd input.
    let near = (word.len() / 3).clamp(1, 3);
    if word.len() > 64 {
        return None;
    }
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate.as_ref()), candidate))
        .filter(|(distance, _)| *distance <= near)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.as_ref().to_owned())
}
