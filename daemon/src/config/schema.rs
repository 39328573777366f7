//! The yield of one declaration of a section: the struct, its defaults, the checks, the reference page, and
//! which keys a reload applies.

use std::path::Path;

use super::fault::Fault;
use super::source::Layers;
use super::value::{OUT_OF_RANGE, Value};

/// A limit on a value beyond its type, in code and in words.
pub struct Rule<T> {
    /// Completes "it may be …"; empty if the type says it all.
    pub allowed: String,
    /// The reference page's words for the default, where the value alone would not explain it.
    pub default_words: Option<&'static str>,
    /// A reload applies the key while the daemon runs.
    pub live: bool,
    check: Box<dyn Fn(&T) -> bool>,
}

impl<T> std::fmt::Debug for Rule<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rule").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl<T> Rule<T> {
    /// Any value that the type takes.
    pub fn any() -> Self {
        Self { allowed: String::new(), default_words: None, live: false, check: Box::new(|_| true) }
    }

    pub fn when(allowed: &str, check: impl Fn(&T) -> bool + 'static) -> Self {
        Self { allowed: allowed.to_owned(), default_words: None, live: false, check: Box::new(check) }
    }

    pub fn default_is(mut self, words: &'static str) -> Self {
        self.default_words = Some(words);
        self
    }

    /// Lets a reload apply the key while the daemon runs.
    pub fn live(mut self) -> Self {
        self.live = true;
        self
    }

    pub(super) fn holds(&self, value: &T) -> bool {
        (self.check)(value)
    }
}

impl<T: PartialOrd + Copy + Value + 'static> Rule<T> {
    /// From `low` to `high`, both included.
    pub fn between(low: T, high: T) -> Self {
        let words = [low, high].map(|x| x.show().unwrap_or_default());
        Self::when(&words.join(" to "), move |x| (low..=high).contains(x))
    }
}

impl<T: 'static> Rule<Option<T>> {
    pub fn if_set(inner: Rule<T>) -> Self {
        let Rule { allowed, default_words, live, check } = inner;
        Self { allowed, default_words, live, check: Box::new(move |x| x.as_ref().is_none_or(&check)) }
    }
}

/// One key, as the reference page describes it.
#[derive(Debug, Clone)]
pub struct Key {
    pub name: &'static str,
    pub type_words: String,
    /// As TOML, or in words; `None` if not set by default.
    pub default: Option<String>,
    /// The default in words rather than as a value.
    pub default_in_words: bool,
    /// Limits beyond the type, completing "it may be …".
    pub allowed: String,
    /// A reload applies it while the daemon runs.
    pub live: bool,
    pub doc: String,
}

impl Key {
    pub fn new<T: Value>(name: &'static str, doc: &str, default: &T, rule: &Rule<T>) -> Self {
        Self {
            name,
            type_words: T::type_words(),
            default: rule.default_words.map(str::to_owned).or_else(|| default.show()),
            default_in_words: rule.default_words.is_some(),
            allowed: rule.allowed.clone(),
            live: rule.live,
            doc: unwrap_lines(doc),
        }
    }

    /// The unit that the name ends in.
    pub fn unit(&self) -> Option<&'static str> {
        const UNITS: [(&str, &str); 5] =
            [("_ms", "milliseconds"), ("_s", "seconds"), ("_min", "minutes"), ("_db", "dB"), ("_hz", "Hz")];
        UNITS.iter().find(|(suffix, _)| self.name.ends_with(suffix)).map(|(_, unit)| *unit)
    }
}

/// Doc comment lines as one paragraph.
pub(crate) fn unwrap_lines(doc: &str) -> String {
    doc.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A section of the configuration.
pub trait Section: Sized + Default {
    const NAME: &'static str;
    const DOC: &'static str;

    fn keys() -> Vec<Key>;

    /// Takes this section's values out of the layers. A refused value becomes a fault, and the default
    /// applies.
    fn take(layers: &mut Layers, faults: &mut Vec<Fault>) -> Self;

    /// Takes over from `new` the keys that may change while the daemon runs.
    fn adopt_live(&mut self, new: &Self);
}

/// Reads one value, or gives its default.
pub fn take_value<T: Value>(
    (section, key): (&'static str, &'static str),
    default: T,
    rule: &Rule<T>,
    layers: &mut Layers,
    faults: &mut Vec<Fault>,
) -> T {
    let name = format!("{section}.{key}");
    let Some(entry) = layers.take(section, key) else {
        layers.note(name, default.show(), super::Origin::Default, rule.live);
        return default;
    };
    let base = entry.origin.base();
    let base = base.as_deref().unwrap_or(Path::new(""));
    // Quotes are optional in the environment, so a value of the wrong type may still be meant as text.
    let read = T::read(&entry.raw, base).or_else(|sentence| match &entry.bare {
        Some(bare) => T::read(bare, base).map_err(|_| sentence),
        None => Err(sentence),
    });
    let read = read.map_err(|sentence| match rule.allowed.as_str() {
        _ if !sentence.ends_with(OUT_OF_RANGE) => sentence,
        "" => format!("{sentence}; it may be 0 to {}", u32::MAX),
        allowed => format!("{sentence}; it may be {allowed}"),
    });
    let checked = read.and_then(|value| {
        if rule.holds(&value) {
            return Ok(value);
        }
        let shown = value.show().unwrap_or_default();
        Err(format!("{shown} is not allowed; it may be {}", rule.allowed))
    });
    match checked {
        Ok(value) => {
            layers.note(name, value.show(), entry.origin, rule.live);
            value
        }
        Err(sentence) => {
            faults.push(Fault::new(entry.origin, Some(name), sentence));
            default
        }
    }
}

/// Declares a section once: doc comments become the reference page, fields the keys.
macro_rules! section {
    ($(#[doc = $section_doc:literal])+ $name:ident = $toml:literal {
        $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr, $rule:expr;)+
    }) => {
        $(#[doc = $section_doc])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $crate::config::Section for $name {
            const NAME: &'static str = $toml;
            const DOC: &'static str = concat!($($section_doc, "\n"),+);

            fn keys() -> Vec<$crate::config::Key> {
                use $crate::config::{Key, Rule};
                vec![$({
                    let default: $type = $default;
                    let rule: Rule<$type> = $rule;
                    Key::new(stringify!($field), concat!($($doc, "\n"),+), &default, &rule)
                }),+]
            }

            fn take(
                layers: &mut $crate::config::Layers,
                faults: &mut Vec<$crate::config::Fault>,
            ) -> Self {
                use $crate::config::{Rule, take_value};
                Self {
                    $($field: {
                        let rule: Rule<$type> = $rule;
                        take_value(($toml, stringify!($field)), $default, &rule, layers, faults)
                    },)+
                }
            }

            fn adopt_live(&mut self, new: &Self) {
                use $crate::config::Rule;
                $({
                    let rule: Rule<$type> = $rule;
                    if rule.live {
                        self.$field.clone_from(&new.$field);
                    }
                })+
            }
        }
    };
}
pub(crate) use section;
