//! The events in a story of the model test, and their weights.

use proptest::prelude::*;

/// Numbers choose among the existing things, whatever their number.
#[derive(Debug, Clone)]
pub enum Action {
    AddUser,
    RenameUser(usize),
    DeleteUser(usize),
    NewConversation(usize, bool),
    Rename(usize),
    DeleteConversation(usize),
    /// In a new conversation if the first is even; the answer is made from an earlier message if the third
    /// is.
    Turn(usize, usize, usize, usize),
    /// A turn during which the task is dropped after so many microseconds.
    BrokenTurn(usize, u64),
    Forget(usize),
    /// The file is closed and opened again; `false`: not even closed.
    Reopen(bool),
    /// The clock jumps by so many milliseconds; afterwards it is a guess if the flag is not set.
    ClockJumps(i64, bool),
    /// The daemon does this every half minute: guessed times are corrected if the clock is set.
    Restamp,
    /// In place of an earlier voiceprint.
    Enrol(usize),
    Unenrol(usize),
    /// One batch.
    Round,
    /// A batch that is dropped after so many milliseconds.
    BrokenRound(u64),
    /// A batch while the network does this.
    FaultyRound(Fault),
    /// The daemon and `jarvisd queue drain` at once.
    TwoRounds,
    /// Everything is queued once more, deletions too, and entries of rows that never existed.
    SendAgain,
    PostgresDies,
    /// Another database takes the place of the one before: an empty one, or one with all its rows.
    AnotherDatabase {
        empty: bool,
    },
    /// When all is quiet, the other device makes one of these changes.
    Elsewhere(Change, usize),
    /// Both devices make a change while neither reaches Postgres, this one first if the flag says so. Then
    /// this one, or the other one, is the first to reach it.
    Apart {
        first: Change,
        second: Change,
        n: usize,
        here_first: bool,
        here_sends_first: bool,
    },
    /// A turn in the conversation that a client's session id names.
    SessionTurn(usize, usize),
    Settle,
}

#[derive(Debug, Clone, Copy)]
pub enum Change {
    Rename,
    Forget,
    DeleteConversation,
    RenameUser,
    DeleteUser,
}

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Refuse,
    Cut,
    LoseCommit,
    LoseCommitAnswer,
}

pub fn action() -> impl Strategy<Value = Action> {
    let one = || 0..1000_usize;
    prop_oneof![
        2 => Just(Action::AddUser),
        1 => one().prop_map(Action::RenameUser),
        1 => one().prop_map(Action::DeleteUser),
        2 => (one(), prop::bool::ANY).prop_map(|(n, title)| Action::NewConversation(n, title)),
        2 => one().prop_map(Action::Rename),
        1 => one().prop_map(Action::DeleteConversation),
        16 => (one(), one(), one(), one()).prop_map(|(a, b, c, d)| Action::Turn(a, b, c, d)),
        2 => (one(), 0..3000_u64).prop_map(|(n, us)| Action::BrokenTurn(n, us)),
        3 => one().prop_map(Action::Forget),
        1 => prop::bool::ANY.prop_map(Action::Reopen),
        2 => (
            prop_oneof![-(50 * 365 * 86_400_000_i64)..50 * 365 * 86_400_000, -1000..1000_i64],
            prop::bool::ANY,
        )
            .prop_map(|(ms, synced)| Action::ClockJumps(ms, synced)),
        2 => Just(Action::Restamp),
        2 => one().prop_map(Action::Enrol),
        1 => one().prop_map(Action::Unenrol),
        5 => Just(Action::Round),
        2 => (0..40_u64).prop_map(Action::BrokenRound),
        3 => prop_oneof![
            Just(Fault::Refuse),
            Just(Fault::Cut),
            Just(Fault::LoseCommit),
            Just(Fault::LoseCommitAnswer)
        ]
        .prop_map(Action::FaultyRound),
        1 => Just(Action::TwoRounds),
        2 => Just(Action::SendAgain),
        1 => prop::option::weighted(0.3, Just(()))
            .prop_map(|dies| dies.map_or(Action::Round, |()| Action::PostgresDies)),
        1 => prop::bool::ANY.prop_map(|empty| Action::AnotherDatabase { empty }),
        2 => (prop::sample::select(vec![
            Change::Rename,
            Change::Rename,
            Change::Forget,
            Change::Forget,
            Change::DeleteConversation,
            Change::RenameUser,
            Change::DeleteUser,
        ]), one()).prop_map(|(change, n)| Action::Elsewhere(change, n)),
        2 => (apart(), apart(), one(), prop::bool::ANY, prop::bool::ANY).prop_map(
            |(first, second, n, here_first, here_sends_first)| {
                Action::Apart { first, second, n, here_first, here_sends_first }
            },
        ),
        2 => (one(), 0..3_usize).prop_map(|(n, session)| Action::SessionTurn(n, session)),
        2 => Just(Action::Settle),
    ]
}

/// A change that both devices may make to the same thing: the later name stays, a thing forgotten by one is
/// gone.
fn apart() -> impl Strategy<Value = Change> {
    prop::sample::select(vec![Change::Rename, Change::Rename, Change::RenameUser, Change::Forget])
}
