//! Search: complete page by page, ranked, limited to one person, whatever else is stored.

use super::*;
use crate::memory::search::Reach;

async fn all(memory: &Memory, user: UserId, text: &str, limit: u32) -> Vec<String> {
    let (mut seen, mut from) = (Vec::new(), None);
    loop {
        let page = memory.search(user, text, Some(Role::User), from.as_ref(), limit).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        seen.extend(page.items.into_iter().map(|hit| hit.message.text));
        match page.next {
            // As a client passes it on.
            Some(next) => from = Some(next.to_string().parse().unwrap()),
            None => return seen,
        }
    }
}

#[tokio::test]
async fn pages_of_a_search_hold_every_match_once_over_all_windows() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let bob = memory.add_user("Bob").await.unwrap().id;
    let id = memory.new_conversation(anna, None).await.unwrap();
    for n in 0..450 {
        let padding = "so ".repeat(n % 7);
        let text = format!("kettle {padding}number{n}");
        say(memory, anna, Target::Existing(id), &text, "the kettle, yes").await.unwrap();
        if n % 10 == 0 {
            say(memory, bob, Target::New, "bob's kettle", "kettle").await.unwrap();
        }
    }
    for limit in [7, 100, 199, 200, 201, 1000] {
        let mut seen = all(memory, anna, "kettle", limit).await;
        assert_eq!(seen.len(), 450, "limit {limit}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 450, "limit {limit}");
    }
    let first = memory.search(anna, "kettle", Some(Role::User), None, 3).await.unwrap();
    let texts: Vec<_> = first.items.iter().map(|hit| hit.message.text.as_str()).collect();
    assert_eq!(
        texts,
        ["kettle number448", "kettle number441", "kettle number434"],
        "short and new ones first"
    );
    assert!(first.items.windows(2).all(|two| two[0].rank <= two[1].rank));
    assert_eq!(all(memory, bob, "kettle", 10).await.len(), 45);
    assert_eq!(memory.matching(anna, "kettle").await.unwrap().len(), 900);
}

#[tokio::test]
async fn a_rare_word_is_found_beside_a_common_one_however_old_it_is() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let id = memory.new_conversation(anna, None).await.unwrap();
    let here = Target::Existing(id);
    say(memory, anna, here, "the submarine is yellow", "ok").await.unwrap();
    say_as(memory, anna, here, Kind::Note, "remember that the tank is full", "ok", &[]).await.unwrap();
    for n in 0..300 {
        say(memory, anna, here, &format!("the weather {n}"), "ok").await.unwrap();
    }
    // No message has all the words.
    let found = memory.search(anna, "the submarine periscope", Some(Role::User), None, 5).await.unwrap();
    assert_eq!(found.items[0].message.text, "the submarine is yellow");
    let recalled = memory.recall(anna, "the submarine periscope", Words::Any, 20).await.unwrap();
    assert!(recalled.iter().any(|m| m.text == "the submarine is yellow"), "{recalled:?}");
    // Notes come first, though 300 newer messages match too.
    let recalled = memory.recall(anna, "the", Words::All, 20).await.unwrap();
    assert_eq!((recalled.len(), recalled[0].text.as_str()), (20, "remember that the tank is full"));
    assert_eq!(recalled[1].text, "the weather 299");
}

#[tokio::test]
async fn another_persons_number_in_a_text_is_not_an_owner() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let bob = memory.add_user("Bob").await.unwrap().id;
    say(memory, bob, Target::New, "1 2 3 user note say secret", "1 2 3").await.unwrap();
    say(memory, anna, Target::New, "no number", "ok").await.unwrap();
    for text in ["secret", "1", "2", "user", "note", "owner", "1 2 3", "secret 1"] {
        assert!(all(memory, anna, text, 10).await.is_empty(), "{text}");
        assert!(memory.matching(anna, text).await.unwrap().is_empty(), "{text}");
        assert!(memory.recall(anna, text, Words::Any, 10).await.unwrap().is_empty(), "{text}");
    }
    assert!(all(memory, UserId(uuid::Uuid::nil()), "secret", 10).await.is_empty());
}

/// All steps together find the same as one search of everything, at every reach of one step.
#[tokio::test]
async fn a_search_in_steps_finds_what_a_search_of_everything_finds() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let bob = memory.add_user("Bob").await.unwrap().id;
    let (mine, his) = (
        memory.new_conversation(anna, None).await.unwrap(),
        memory.new_conversation(bob, None).await.unwrap(),
    );
    for n in 0..150 {
        let text = match n {
            3 => "the walrus under the tree",
            9 | 101 => "tree and bush",
            n if n % 3 == 0 => "a tree",
            n if n % 3 == 1 => "a bush",
            _ => "tree bush walrus",
        };
        let (user, id) = if n % 3 == 2 && n != 101 { (bob, his) } else { (anna, mine) };
        say(memory, user, Target::Existing(id), &format!("{text} {n}"), "ok").await.unwrap();
    }
    let everything = Reach { span: i64::MAX, rare: 0 };
    for (user, text, most) in
        [(anna, "tree bush", 2), (anna, "tree", 51), (anna, "walrus", 1), (bob, "tree bush", 49)]
    {
        let mut whole = in_steps(memory, user, text, everything, 1000).await.0;
        assert_eq!(whole.len(), most, "{text}");
        whole.sort();
        for (span, rare) in [(1, 1), (7, 1), (40, 1), (40, 5), (40, 1000), (299, 3), (100_000, 1)] {
            for limit in [1, 3, 1000] {
                let (mut found, pages) = in_steps(memory, user, text, Reach { span, rare }, limit).await;
                found.sort();
                assert_eq!(
                    found, whole,
                    "{text}, steps of {span}, rare below {rare}, {limit} a page, {pages} pages"
                );
            }
        }
    }
    let (found, pages) = in_steps(memory, anna, "tree bush", Reach { span: 20, rare: 1 }, 10).await;
    assert!(found.len() == 2 && pages > 10, "it takes {pages} steps");
    let (_, pages) = in_steps(memory, anna, "tree walrus", Reach { span: 20, rare: 1000 }, 10).await;
    assert_eq!(pages, 1, "a rare word is looked for everywhere at once");
}

/// An old note with only common words is found behind any number of newer messages.
#[tokio::test]
async fn what_was_to_be_remembered_is_recalled_however_far_back_it_is() {
    let home = Home::new().await;
    let memory = &home.memory;
    let anna = memory.add_user("Anna").await.unwrap().id;
    let here = Target::Existing(memory.new_conversation(anna, None).await.unwrap());
    say_as(memory, anna, here, Kind::Note, "the dentist is on friday", "ok", &[]).await.unwrap();
    for n in 0..100 {
        let kind = if n % 2 == 0 { Kind::Note } else { Kind::Say };
        let text = if n % 4 < 2 { format!("the dentist {n}") } else { format!("friday {n}") };
        say_as(memory, anna, here, kind, &text, "ok", &[]).await.unwrap();
    }
    for span in [1, 7, 20, 1000] {
        let reach = Reach { span, rare: 1 };
        let found = memory.recall_within(anna, "dentist friday", Words::All, 5, reach).await.unwrap();
        assert_eq!(found.len(), 1, "steps of {span}");
        assert_eq!(found[0].text, "the dentist is on friday");
        let found = memory.recall_within(anna, "is zebra", Words::Any, 5, reach).await.unwrap();
        assert_eq!(found[0].text, "the dentist is on friday", "steps of {span}");
        assert!(memory.recall_within(anna, "zebra", Words::Any, 5, reach).await.unwrap().is_empty());
    }
}

async fn in_steps(
    memory: &Memory,
    user: UserId,
    text: &str,
    reach: Reach,
    limit: u32,
) -> (Vec<String>, usize) {
    let (mut seen, mut from, mut pages) = (Vec::new(), None, 0);
    loop {
        let role = Some(Role::User);
        let page = memory.search_within(user, text, role, from.as_ref(), limit, reach).await.unwrap();
        pages += 1;
        seen.extend(page.items.into_iter().map(|hit| hit.message.text));
        match page.next {
            Some(next) => from = Some(next.to_string().parse().unwrap()),
            None => return (seen, pages),
        }
    }
}
