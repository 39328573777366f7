//! Statements are constants, or are built once from the descriptions of tables; each is prepared on the real
//! schema by a test.

/// Declares SQL constants together with a table of all of them, `STATEMENTS`, that the test prepares.
macro_rules! statements {
    ($($(#[$doc:meta])* $vis:vis $name:ident = $sql:expr;)+) => {
        $($(#[$doc])* $vis const $name: &str = $sql;)+
        #[cfg(test)]
        pub(crate) const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $name)),+];
    };
}

/// Declares statements that are built from descriptions of tables, with a list of them for the test, `built`.
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
