//! Statements are constants, and each is prepared on the real schema by a test.

/// Declares SQL constants together with a table of all of them, `STATEMENTS`, that the test prepares.
macro_rules! statements {
    ($($(#[$doc:meta])* $vis:vis $name:ident = $sql:expr;)+) => {
        $($(#[$doc])* $vis const $name: &str = $sql;)+
        #[cfg(test)]
        pub(crate) const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $name)),+];
    };
}

pub(crate) use statements;
