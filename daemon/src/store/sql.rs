//! Statements are constants, or are built once from the descriptions of tables; a test prepares each on the
//! real schema.

/// Declares SQL constants and a list of them, `STATEMENTS`, which the test prepares.
macro_rules! statements {
    ($($(#[$doc:meta])* $vis:vis $name:ident = $sql:expr;)+) => {
        $($(#[$doc])* $vis const $name: &str = $sql;)+
        #[cfg(test)]
        pub(crate) const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $name)),+];
    };
}

/// Declares statements built from descriptions of tables, and a list of them for the test, `built`.
macro_rules! built {
    ($($(#[$doc:meta])* $vis:vis $name:ident = $sql:expr;)+) => {
        $($(#[$doc])* $vis static $name: std::sync::LazyLock<&'static str> =
            std::sync::LazyLock::new(|| String::leak($sql));)+
        #[cfg(test)]
        pub(crate) fn built() -> Vec<(&'static str, &'static str)> {
            vec![$((stringify!($name), *$name)),+]
        }
    };
}

pub(crate) use {built, statements};
