//! Section `[voice]` of the configuration.

use std::path::Path;

use super::SecondVoice;
use crate::config::{Raw, Value, Words, lines, quote, section, toml_list};
use crate::text::name_key;

section! {
    /// Speaker verification. After 5 failures in a row (a voice that is not verified, a wrong PIN) the device
    /// pauses for 30 s, and longer with each further one, up to 15 minutes; a verified voice or a right PIN
    /// ends that.
    Voice = "voice" {
        /// Answer enrolled voices only. Switched off, everyone is answered as the user "anonymous", who has a
        /// memory of their own; nobody else's is read.
        enabled: bool = true, Rule::any();
        /// Probability from which a speaker counts as verified.
        threshold: f32 = 0.85, Rule::between(UserThresholds::RANGE.0, UserThresholds::RANGE.1).live();
        /// People for whom another one counts: higher where voices in the house are alike, lower for one that
        /// is often refused.
        user_thresholds: UserThresholds = UserThresholds::default(), Rule::any().live();
        /// Somebody else's words before or behind a verified person, in one breath of sound: only the
        /// person's own part is transcribed ("cut"), the whole is not answered ("refuse"), or it is taken for
        /// theirs ("answer").
        second_voice: SecondVoice = SecondVoice::Cut, Rule::any();
        /// Do not answer a verified person while somebody else speaks at the same time (a quarter of a second
        /// or longer): words of both would be taken for theirs. Off unless wanted, because a television that
        /// is loud enough counts.
        refuse_overlap: bool = false, Rule::any();
        /// Let a person in for this long when they give their PIN over MQTT, for days when their voice fails
        /// them. Any voice then heard that is not another enrolled person's counts as theirs. 0 switches it
        /// off.
        pin_valid_s: u32 = 0, Rule::between(0, 600);
        /// Let an enrolment before the microphone be begun over MQTT. Off unless wanted: any client that may
        /// publish to the broker could then enrol anybody, who would be answered from that day on.
        enrol_by_mqtt: bool = false, Rule::any();
    }
}

impl Words for SecondVoice {
    const ALL: &'static [Self] = &[Self::Cut, Self::Refuse, Self::Answer];

    fn word(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Refuse => "refuse",
            Self::Answer => "answer",
        }
    }
}

impl Voice {
    /// Whether the network that hears where somebody else speaks is needed.
    pub fn hears_others(&self) -> bool {
        self.refuse_overlap || self.second_voice != SecondVoice::Answer
    }
}

/// Thresholds of single people, which go before the common one: `["Anna=0.9"]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UserThresholds(pub Vec<(String, f32)>);

impl UserThresholds {
    /// The range of thresholds: below, every second stranger would be let in; above, nobody.
    const RANGE: (f32, f32) = (0.5, 0.999);
    const WANTED: &'static str = "a list of names with their probability, such as [\"Anna=0.9\"]";

    /// The threshold of the person called `name`; names are compared as everywhere, without regard to case.
    pub fn of(&self, name: &str) -> Option<f32> {
        let key = name_key(name);
        self.0.iter().find(|(own, _)| name_key(own) == key).map(|(_, threshold)| *threshold)
    }

    fn one(text: &str) -> Result<(String, f32), String> {
        let (low, high) = Self::RANGE;
        let (name, number) = text
            .rsplit_once('=')
            .ok_or_else(|| format!("\"{}\" has no =; it needs {}", quote(text), Self::WANTED))?;
        let threshold = number.trim().parse().ok().filter(|t| (low..=high).contains(t));
        let threshold = threshold.ok_or_else(|| {
            format!("\"{}\" needs a probability from {low:?} to {high:?} behind the =", quote(text))
        })?;
        match name.trim() {
            "" => Err(format!("\"{}\" needs a name before the =", quote(text))),
            name => Ok((name.to_owned(), threshold)),
        }
    }
}

impl Value for UserThresholds {
    fn type_words() -> String {
        "list of \"NAME=PROBABILITY\"".to_owned()
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let mut all = Self::default();
        let mut faults = Vec::new();
        for text in lines(raw, Self::WANTED)? {
            match Self::one(&text) {
                Ok((name, _)) if all.of(&name).is_some() => {
                    faults.push(format!("names \"{}\" twice", quote(&name)));
                }
                Ok(one) => all.0.push(one),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(all) } else { Err(faults.join("; ")) }
    }

    fn show(&self) -> Option<String> {
        Some(toml_list(self.0.iter().map(|(name, threshold)| format!("{name}={threshold:?}"))))
    }
}
