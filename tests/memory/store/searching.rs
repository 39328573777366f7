//! Finding words: in scripts without spaces, and at a bounded cost for any query.

use std::time::Instant;

use super::{exported, import};
use crate::support::{PATIENCE, Root};

/// Words in the middle of a run, of two letters and of one.
#[test]
fn a_word_inside_a_run_of_letters_is_found_and_recalled() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    for text in [
        "remember that 备用钥匙在蓝色花盆下面",
        "remember that 予備の鍵は青い植木鉢の下です",
        "remember that กุญแจสำรองอยู่ใต้กระถางสีฟ้า",
        "remember that 열쇠는 화분 아래에 있다",
        "remember that 지하실예비전구상자",
    ] {
        root.ok(&["ask", "--user", "anna", text]);
    }
    let found = |words: &str| {
        let hits = root.json(&["conversation", "search", "--user", "anna", words]);
        let hits = hits.as_array().unwrap().iter().filter(|hit| hit["message"]["role"] == "user");
        hits.map(|hit| hit["message"]["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (words, part) in [
        ("钥匙", "备用"),
        ("花盆", "备用"),
        ("下面", "备用"),
        ("蓝", "备用"),
        ("植木鉢", "予備"),
        ("鍵", "予備"),
        ("กระถาง", "กุญแจ"),
        ("อยู่", "กุญแจ"),
        ("열쇠", "열쇠는"),
        ("쇠", "열쇠는"),
        ("전구", "지하실"),
        ("예비전구", "지하실"),
        ("상자", "지하실"),
    ] {
        let hits = found(words);
        assert!(hits.len() == 1 && hits[0].contains(part), "{words}: {hits:?}");
    }
    assert!(found("匙钥").is_empty() && found("盆花").is_empty() && found("구전").is_empty());
    let told = root.ok(&["ask", "--user", "anna", "what do you remember about 전구"]);
    assert!(told.contains("지하실예비전구상자"), "{told}");
    let told = root.ok(&["ask", "--user", "anna", "what do you remember about 花盆"]);
    assert!(told.contains("备用钥匙在蓝色花盆下面"), "{told}");
    root.ok(&["ask", "--user", "anna", "forget everything about กระถาง"]);
    assert!(found("กุญแจ").is_empty() && found("鍵").len() == 1);
}

#[test]
fn a_topic_of_thousands_of_words_costs_no_more_than_a_sentence() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    let words =
        |salt: usize, n: usize| (0..n).map(|k| format!("word{:x} ", k * 7919 + salt)).collect::<String>();
    assert!(import(&root, &exported(200, &words(1, 200))).status.success());
    for turn in ["remember that", "note that", "remember that"] {
        root.ok(&["ask", "--user", "anna", &format!("{turn} {}", words(3, 2_000))]);
    }
    for (order, topic) in [
        ("what do you remember about", words(5, 5_000)),
        ("forget everything about", words(7, 5_000)),
        ("where is", format!("{} {}", "x".repeat(60_000), "y".repeat(60_000))),
        ("do you know", "钥匙在花盆下面".repeat(3_000)),
    ] {
        let begun = Instant::now();
        root.ok(&["ask", "--user", "anna", &format!("{order} {topic}")]);
        root.run(&["conversation", "search", "--user", "anna", &topic]);
        assert!(begun.elapsed() < PATIENCE, "{order}: {:?}", begun.elapsed());
    }
}
