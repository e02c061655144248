//! A kind on the command line, alone or with a name in one word, as kubectl takes it and `-o name` prints it: `pods`,
//! `pod/web`, `pod/default/web`.

use std::ffi::OsStr;
use std::marker::PhantomData;

use clap::builder::{EnumValueParser, PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command, Error, ValueEnum};

use crate::failure::Failure;

/// A kind, and the name behind it if the word had one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject<K> {
    pub kind: K,
    pub name: Option<String>,
}

impl<K: ValueEnum> Subject<K> {
    /// The names that the first word and those behind it ask for. Where the first has its name, each has its kind.
    ///
    /// # Errors
    /// A usage error for a word without a kind, or of another kind.
    pub fn names(&self, others: &[String]) -> Result<Vec<String>, Failure>
    where
        K: PartialEq,
    {
        let Some(first) = &self.name else { return Ok(others.to_vec()) };
        let mut names = vec![first.clone()];
        for word in others {
            match word.split_once('/') {
                Some((kind, name)) if K::from_str(kind, false).is_ok_and(|kind| kind == self.kind) => {
                    names.push(name.to_owned());
                }
                _ => {
                    let why = format!("{word:?}: behind a KIND/NAME come only more of the same kind");
                    return Err(Failure::Usage(why));
                }
            }
        }
        Ok(names)
    }
}

/// Reads a [`Subject`].
#[derive(Debug, Clone)]
pub struct SubjectParser<K>(PhantomData<K>);

impl<K> SubjectParser<K> {
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<K: ValueEnum + Clone + Send + Sync + 'static> TypedValueParser for SubjectParser<K> {
    type Value = Subject<K>;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Self::Value, Error> {
        let (kind, name) = match value.to_str().and_then(|word| word.split_once('/')) {
            Some((kind, name)) => (OsStr::new(kind), Some(name.to_owned())),
            None => (value, None),
        };
        if name.as_deref() == Some("") {
            let what = format!("{}: a name is missing behind the slash\n", value.display());
            return Err(Error::raw(ErrorKind::InvalidValue, what).with_cmd(command));
        }
        let kind = EnumValueParser::<K>::new().parse_ref(command, arg, kind)?;
        Ok(Subject { kind, name })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(K::value_variants().iter().filter_map(ValueEnum::to_possible_value)))
    }
}
