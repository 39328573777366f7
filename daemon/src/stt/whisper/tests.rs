//! Whisper on synthetic and real speech, and on sound that is not speech.

use super::*;
use crate::inference::ModelStore;
use crate::stt::testing::{say, sox, transcribe, whisper_store, word_errors};
use crate::testdata::shared;

fn recognizer() -> Option<WhisperRecognizer> {
    Some(WhisperRecognizer::load(&whisper_store()?).unwrap())
}

fn heard(recognizer: &mut WhisperRecognizer, samples: &[f32]) -> String {
    transcribe(recognizer, samples, 1600).text
}

/// Uniform noise of a fixed seed.
fn noise(samples: usize, peak: f32) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..samples).map(|_| peak * next()).collect()
}

#[test]
fn phrases_of_a_synthetic_voice_are_heard_exactly() {
    let Some(mut whisper) = recognizer() else { return };
    for words in
        ["remember that the spare key is under the blue pot", "what do you remember about the spare key"]
    {
        let Some(samples) = say("rms", words) else { return };
        let transcript = transcribe(&mut whisper, &samples, 1600);
        assert_eq!(text::normalise(&transcript.text), words);
        assert_eq!(transcript.engine, "whisper");
        assert!(transcript.confidence.unwrap() > 0.4, "{transcript:?}");
    }
}

#[test]
fn synthetic_voices_are_understood_with_few_word_errors() {
    let Some(mut whisper) = recognizer() else { return };
    let phrases = [
        "what time is it in the kitchen",
        "please turn on the light in the living room",
        "what did we talk about yesterday",
        "remember that my sister comes on friday",
    ];
    let (mut errors, mut words) = (0, 0);
    for voice in ["rms", "slt", "awb", "kal16"] {
        for phrase in phrases {
            let Some(samples) = say(voice, phrase) else { return };
            let text = heard(&mut whisper, &samples);
            let (e, w) = word_errors(phrase, &text);
            if e > 0 {
                println!("{voice}: said {phrase:?}, heard {text:?}");
            }
            errors += e;
            words += w;
        }
    }
    println!("{errors} of {words} words wrong");
    assert!(errors * 100 <= words * 15, "{errors} of {words} words wrong");
}

#[test]
fn real_commands_are_understood() {
    let Some(mut whisper) = recognizer() else { return };
    let clips = [
        ("turn_on_the_lamp", "turn on the lamp"),
        ("this_is_a_test", "this is a test"),
        ("what_time_is_it", "what time is it"),
        ("whats_the_date_today", "what's the date today"),
        ("play_the_beatles", "play the beatles"),
        ("set_timer", "set a timer for ten minutes"),
    ];
    let (mut errors, mut words) = (0, 0);
    for (file, said) in clips {
        let Some(path) = shared(&format!("audio/rhasspy3/{file}.flac")) else { return };
        let Some(samples) = sox(&[path.to_str().unwrap()]) else { return };
        let text = heard(&mut whisper, &samples);
        let (e, w) = word_errors(said, &text);
        println!("{file}: {text:?}");
        errors += e;
        words += w;
    }
    println!("{errors} of {words} words wrong");
    assert!(errors <= 2, "{errors} of {words} words wrong");
}

#[test]
fn blocks_and_earlier_utterances_do_not_change_the_text() {
    let Some(mut whisper) = recognizer() else { return };
    let Some(samples) = say("rms", "please turn on the light") else { return };
    let alone = transcribe(&mut whisper, &samples, samples.len());
    heard(&mut whisper, &noise(16_000, 0.2));
    whisper.accept(&noise(16_000, 0.2)).unwrap();
    whisper.reset();
    assert_eq!(transcribe(&mut whisper, &samples, 77), alone);
}

#[test]
fn silence_and_noise_give_no_words() {
    let Some(mut whisper) = recognizer() else { return };
    for (name, samples) in [
        ("nothing", vec![]),
        ("a click", vec![1.0]),
        ("silence", vec![0.0; 48_000]),
        ("faint noise", noise(48_000, 2e-4)),
        ("not numbers", vec![f32::NAN; 48_000]),
        ("noise", noise(48_000, 0.1)),
        ("loud noise", noise(160_000, 1.0)),
        ("a tone", (0..48_000).map(|i| 0.3 * (i as f32 * 0.05).sin()).collect()),
    ] {
        assert_eq!(heard(&mut whisper, &samples), "", "{name}");
    }
}

#[test]
fn broken_samples_amid_speech_are_silence() {
    let Some(mut whisper) = recognizer() else { return };
    let Some(mut samples) = say("rms", "please turn on the light in the kitchen") else { return };
    samples[10] = f32::NAN;
    samples[20] = f32::INFINITY;
    samples[30] = 1e30;
    let text = heard(&mut whisper, &samples);
    assert!(word_errors("please turn on the light in the kitchen", &text).0 <= 1, "{text:?}");
}

#[test]
fn speech_longer_than_the_context_is_transcribed_in_pieces() {
    let Some(mut whisper) = recognizer() else { return };
    let phrases = [
        "remember that the spare key is under the blue pot",
        "my sister comes on friday with the children",
        "the red car needs new tires before the winter",
        "please turn on the light in the living room",
        "tomorrow we want to go to the mountains",
        "the doctor said that he should drink more water",
        "there are seven eggs and some butter in the kitchen",
        "the train to the city leaves every morning at nine",
        "our neighbour has a small white dog",
        "what did we talk about yesterday evening",
    ];
    let mut samples = Vec::new();
    for phrase in phrases {
        let Some(said) = say("rms", phrase) else { return };
        samples.extend(said);
    }
    assert!(samples.len() > 30 * RATE, "{} s", samples.len() / RATE);
    let text = heard(&mut whisper, &samples);
    let (errors, words) = word_errors(&phrases.join(" "), &text);
    println!("{errors} of {words}: {text}");
    assert!(errors * 100 <= words * 15, "{errors} of {words} words wrong: {text:?}");
}

#[test]
fn long_sound_is_cut_where_it_is_quietest_and_nothing_is_lost() {
    let mut samples = noise(70 * RATE, 0.5);
    samples[26 * RATE..26 * RATE + RATE / 2].fill(0.0);
    let cut = pieces(&samples);
    assert!((26 * RATE..26 * RATE + RATE / 2).contains(&cut[0].len()), "{}", cut[0].len());
    assert_eq!(cut.iter().map(|p| p.len()).sum::<usize>(), samples.len());
    assert!(cut.iter().all(|p| p.len() <= LONG_SAMPLES));
    assert_eq!(pieces(&[]), [&[] as &[f32]]);
}

#[test]
fn a_damaged_model_file_is_refused_with_the_command_that_fixes_it() {
    let Some(store) = whisper_store() else { return };
    let whole = store.entries().iter().filter(|e| e.name.starts_with("whisper"));
    for broken in whole {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(store.manifest_path(), dir.path().join("manifest.toml")).unwrap();
        for entry in store.entries().iter().filter(|e| e.name.starts_with("whisper")) {
            let from = store.file(&entry.name).unwrap();
            let to = dir.path().join(&entry.file);
            if entry.name == broken.name {
                let bytes = std::fs::read(from).unwrap();
                std::fs::write(to, &bytes[..bytes.len() / 2]).unwrap();
            } else {
                std::os::unix::fs::symlink(from, to).unwrap();
            }
        }
        let store = ModelStore::open(&[dir.path().to_path_buf()]).unwrap();
        let error = WhisperRecognizer::load(&store).unwrap_err();
        let said = crate::error::chain(&error);
        assert!(said.contains(&broken.file) && said.contains("fetch-models.sh"), "{said}");
    }
}
