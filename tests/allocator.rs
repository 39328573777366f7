//! Memory that models leave behind goes back to the system. A process of its own: other tests allocate
//! meanwhile.
#![cfg(target_env = "gnu")]

use jarvisd::inference::allocator::{Resident, give_back};

#[test]
fn memory_that_was_used_in_small_pieces_is_given_back() {
    // Pieces too small for a mapping of their own, with one in use behind them, so that glibc keeps them.
    let pieces: Vec<Vec<u8>> = (0..2_000).map(|_| vec![1_u8; 32 * 1_024]).collect();
    let last = vec![1_u8; 1_024];
    drop(pieces);
    let Resident { before_kb, after_kb } = give_back().unwrap();
    assert!(before_kb > after_kb + 32 * 1_024, "{before_kb} kB, then {after_kb} kB");
    assert_eq!(last.len(), 1_024);
}
