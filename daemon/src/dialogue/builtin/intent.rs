//! Intents, from how people phrase them. Patterns are tried in order; the first that fits decides.

use super::words::{Word, command_of, matches, original, symbols_behind};

/// The meaning of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// No words.
    Nothing,
    /// Something to remember; `clause` if it can follow "that".
    Remember {
        statement: String,
        clause: bool,
    },
    /// "Remember that", without a word of its content.
    RememberWhat,
    /// "Remind me to …": remembered, without an alarm.
    Remind(String),
    /// Tell what is known about a topic.
    Recall(String),
    /// Everything that was to be remembered.
    RecallAll,
    TalkedAbout,
    WhoAmI,
    ForgetThat,
    /// Forget what was said about a topic; of several things, the person is asked which.
    ForgetAbout(String),
    /// Forget everything that was said about a topic, as the person asks.
    ForgetAllAbout(String),
    ForgetEverything,
    ForgetConversation,
    /// Bring back the things forgotten a moment ago.
    Undo,
    NewConversation,
    Time,
    Date,
    TimeAndDate,
    Greeting,
    HowAreYou,
    Thanks,
    Goodbye,
    Help,
    Cancel,
    /// A question that may be about something remembered.
    Question(String),
    /// Anything else: plain talk.
    Other,
}

#[derive(Clone, Copy)]
enum Want {
    Is(fn() -> Intent),
    Takes(fn(String) -> Intent),
}

use Want::{Is, Takes};

/// An emoji alone is no clause.
fn that(statement: String) -> Intent {
    let clause = statement.contains(char::is_alphanumeric);
    Intent::Remember { statement, clause }
}

fn something(statement: String) -> Intent {
    const VERBS: &[&str] = &[
        "is", "are", "was", "were", "am", "has", "have", "had", "will", "can", "could", "should", "must",
        "do", "does", "did", "likes", "like", "lives", "live", "goes", "go", "needs", "need", "wants",
        "want", "works", "comes", "costs", "starts", "ends", "belongs", "put", "left", "lost", "bought",
        "gave", "took", "loves", "love", "hates", "hate", "isn't", "aren't", "don't", "doesn't", "can't",
        "won't", "said", "told", "it's", "he's", "she's", "i'm",
    ];
    let clause = statement.split_whitespace().any(|word| VERBS.contains(&word.to_lowercase().as_str()));
    Intent::Remember { statement, clause }
}

/// `@` allows up to two words of noise in front, such as a misheard wake word.
const PATTERNS: &[(&str, Want)] = &[
    // Small talk, whole phrases only.
    ("never mind|mine", Is(|| Intent::Cancel)),
    ("nevermind|cancel|stop|nothing|quiet|silence", Is(|| Intent::Cancel)),
    ("forget it", Is(|| Intent::ForgetThat)),
    ("good morning|afternoon|evening|day", Is(|| Intent::Greeting)),
    ("hello|hi|hey|greetings|howdy there?", Is(|| Intent::Greeting)),
    ("hello|hi|hey? how are you doing? today?", Is(|| Intent::HowAreYou)),
    ("thanks|thank you? very|so? much?", Is(|| Intent::Thanks)),
    ("many|much thanks", Is(|| Intent::Thanks)),
    ("cheers", Is(|| Intent::Thanks)),
    ("goodbye|bye|goodnight bye?", Is(|| Intent::Goodbye)),
    ("good night|bye", Is(|| Intent::Goodbye)),
    ("see you later|soon|tomorrow?", Is(|| Intent::Goodbye)),
    ("help me?", Is(|| Intent::Help)),
    ("what can|could i ask|say to? you?", Is(|| Intent::Help)),
    ("what can|could|do you do", Is(|| Intent::Help)),
    ("what can|could you do for? me?", Is(|| Intent::Help)),
    ("how do you work", Is(|| Intent::Help)),
    // New conversation.
    (
        "@ start|begin|open|make|create|have a? new|fresh|knew conversation|chat|topic|subject|session",
        Is(|| Intent::NewConversation),
    ),
    ("@ a? new|fresh|knew conversation|chat|topic|subject|session", Is(|| Intent::NewConversation)),
    ("let us? start over|again|afresh", Is(|| Intent::NewConversation)),
    ("let's? start over|again|afresh", Is(|| Intent::NewConversation)),
    ("change the subject|topic", Is(|| Intent::NewConversation)),
    // Bringing back.
    ("undo that|this|it|everything?", Is(|| Intent::Undo)),
    ("undo the|my? last|latest? forgetting|deletion|deleting|thing|one|command|order", Is(|| Intent::Undo)),
    (
        "@ bring|get|take|give me? it|that|this|them|those|everything|both|all back again?",
        Is(|| Intent::Undo),
    ),
    ("@ bring back it|that|this|them|those|everything|both|all again?", Is(|| Intent::Undo)),
    // Not "unforget": a recogniser's "forget" is close enough to it.
    ("restore|recover it|that|this|them|those|everything|both?", Is(|| Intent::Undo)),
    ("remember it|that|this|them|those|both again", Is(|| Intent::Undo)),
    ("i didn't mean|want to forget|delete|erase that|this|it|them", Is(|| Intent::Undo)),
    ("i did not mean|want to forget|delete|erase that|this|it|them", Is(|| Intent::Undo)),
    // Requests not to forget; tried before those to forget.
    ("do? don't|not|never you? forget|forgot it|that|this|them", Is(|| Intent::Cancel)),
    // Forgetting.
    (
        "@ forget|delete|erase|remove the|this|our|that|my whole|entire|last|latest? \
         conversation|chat|session now?",
        Is(|| Intent::ForgetConversation),
    ),
    (
        "@ forget|delete|erase|remove everything|all|what we have? just? talked|spoke|spoken|discussed \
         about? now|today?",
        Is(|| Intent::ForgetConversation),
    ),
    ("@ forget|delete|erase everything|all you know|remember about me", Is(|| Intent::ForgetEverything)),
    ("@ forget|delete|erase everything|all about me", Is(|| Intent::ForgetEverything)),
    ("@ forget|delete|erase everything|all", Is(|| Intent::ForgetEverything)),
    (
        "@ forget|delete|erase everything|all i|you ever? told|said|know|remember you?",
        Is(|| Intent::ForgetEverything),
    ),
    (
        "@ forget|delete|erase|remove everything|all|anything|whatever that? i|you have? ever? \
         told|said|know|remember you? about|of|on *",
        Takes(Intent::ForgetAllAbout),
    ),
    ("@ forget|delete|erase|remove what i have? told|said to? you? about *", Takes(Intent::ForgetAbout)),
    (
        "@ forget|delete|erase|remove everything|all|anything|whatever about|of|on|regarding *",
        Takes(Intent::ForgetAllAbout),
    ),
    ("@ forget|delete|erase|remove what i have? just? said|told you? just? now?", Is(|| Intent::ForgetThat)),
    (
        "@ forget|delete|erase|remove the last thing|turn|message|sentence|one|bit i? said?",
        Is(|| Intent::ForgetThat),
    ),
    (
        "forget|delete|erase|scratch|remove about? that|this|it again|right|just? now|then|away?",
        Is(|| Intent::ForgetThat),
    ),
    ("do? don't|not|never remember that|this|it", Is(|| Intent::ForgetThat)),
    ("do? don't|not|never you? forget|forgot that *", Takes(that)),
    ("do? don't|not|never you? forget|forgot to *", Takes(Intent::Remind)),
    ("do? don't|not|never you? forget|forgot about? *", Takes(something)),
    ("do? don't|not|never let me forget|forgot that *", Takes(that)),
    ("do? don't|not|never let me forget|forgot to *", Takes(Intent::Remind)),
    ("do? don't|not|never let me forget|forgot about? *", Takes(something)),
    ("forget|delete|erase about *", Takes(Intent::ForgetAbout)),
    ("forget|delete|erase that *", Takes(Intent::ForgetAbout)),
    ("forget|delete|erase *", Takes(Intent::ForgetAbout)),
    // Time and date; before recall, which takes any question.
    ("tell? me? the? time and date", Is(|| Intent::TimeAndDate)),
    ("what is|are the? date|time and the? date|time today|now?", Is(|| Intent::TimeAndDate)),
    ("@ what|which time is it now|today|here|currently?", Is(|| Intent::Time)),
    ("@ what time it is", Is(|| Intent::Time)),
    ("@ what is|was the? current? time is? it? now|today|here|currently?", Is(|| Intent::Time)),
    ("@ what is|was the? current? time right? now", Is(|| Intent::Time)),
    ("what time is it right? now", Is(|| Intent::Time)),
    ("what time", Is(|| Intent::Time)),
    ("how late is it", Is(|| Intent::Time)),
    ("do you know|have the|what time? it? is?", Is(|| Intent::Time)),
    ("do you know|have the time", Is(|| Intent::Time)),
    ("tell|give|the me? the? time now|please?", Is(|| Intent::Time)),
    ("time", Is(|| Intent::Time)),
    ("tell me what time it is now?", Is(|| Intent::Time)),
    ("@ what|which day|date|year|month|weekday is it|this|today now|today?", Is(|| Intent::Date)),
    (
        "@ what|which day|date|year|month|weekday of? the? week|month|year? is it|this|today now|today?",
        Is(|| Intent::Date),
    ),
    ("@ what is|was|are the? current? date|day|year|month|weekday today|now|today's?", Is(|| Intent::Date)),
    ("what is|are today's|todays|today date|day?", Is(|| Intent::Date)),
    ("what is today", Is(|| Intent::Date)),
    ("tell|give me? today's|the? date|day today?", Is(|| Intent::Date)),
    ("tell me what|which day|date it|today is today?", Is(|| Intent::Date)),
    ("the? date today?", Is(|| Intent::Date)),
    ("today's|todays date", Is(|| Intent::Date)),
    // The subjects of earlier conversations.
    (
        "@ what did|do|have we just? talk|talked|speak|spoke|spoken|discuss|discussed|chat|chatted about? *",
        Is(|| Intent::TalkedAbout),
    ),
    (
        "@ what did|do|have we just? talk|talked|speak|spoke|spoken|discuss|discussed|chat|chatted about?",
        Is(|| Intent::TalkedAbout),
    ),
    ("@ what were|was|are we just? talking|speaking|discussing|saying about?", Is(|| Intent::TalkedAbout)),
    ("@ what was|is our|the last|previous? conversation|chat about", Is(|| Intent::TalkedAbout)),
    ("where were we", Is(|| Intent::TalkedAbout)),
    // The name of the speaker.
    ("@ who am i", Is(|| Intent::WhoAmI)),
    ("@ what is|was my name", Is(|| Intent::WhoAmI)),
    ("do you know|recognise|recognize me", Is(|| Intent::WhoAmI)),
    ("do you know|recognise|recognize|remember who i am", Is(|| Intent::WhoAmI)),
    ("do you know|remember my name", Is(|| Intent::WhoAmI)),
    ("tell me? who i am", Is(|| Intent::WhoAmI)),
    ("who is this|speaking|talking now?", Is(|| Intent::WhoAmI)),
    // Recall, before "remember", which it contains.
    (
        "@ what do|did|to|can|to? you still? remember|know|recall about|of|on|regarding|bout *",
        Takes(Intent::Recall),
    ),
    ("@ what you still? remember|know|recall about|of|on|regarding *", Takes(Intent::Recall)),
    ("@ what do|did|to? i tell|told|say|said to? you? about|of|on|regarding|bout *", Takes(Intent::Recall)),
    ("@ what have|had i told|said|tell to? you? about|of|on|regarding|bout *", Takes(Intent::Recall)),
    ("@ what i told|said|tell to? you? about|of|on|regarding *", Takes(Intent::Recall)),
    ("@ what did|have i ask|asked|want|tell|told you to remember|recall about|of *", Takes(Intent::Recall)),
    ("@ what did|have i ask|asked|want|tell|told you to remember|recall", Is(|| Intent::RecallAll)),
    ("@ what do|did|to|can? you still? remember|recall", Is(|| Intent::RecallAll)),
    ("@ what do|did|to|can? you know|remember about me", Is(|| Intent::RecallAll)),
    ("@ what did|have i tell|told|say|said to? you?", Is(|| Intent::RecallAll)),
    ("tell me everything|all|what you remember|know|recall", Is(|| Intent::RecallAll)),
    (
        "tell me everything|all|what that? you still? remember|know|recall about|of|on *",
        Takes(Intent::Recall),
    ),
    ("tell me again? about|where|what|when|who|which|how *", Takes(Intent::Question)),
    ("remember|recall what i told|said|tell to? you? about|of|on *", Takes(Intent::Recall)),
    ("remember when|what|where|who|which|how *", Takes(Intent::Recall)),
    ("remind me of? what i told|said|tell to? you? about|of|on *", Takes(Intent::Recall)),
    ("remind me to *", Takes(Intent::Remind)),
    ("remind me about|of|what|where|when|who|which|how *", Takes(Intent::Recall)),
    ("@ do|did|to? you still? remember|recall *", Takes(Intent::Recall)),
    (
        "do|did you still? know|no anything|something? about|where|what|when|who|which|how|if *",
        Takes(Intent::Question),
    ),
    ("@ have i|you told|said|ever you|me? anything|something? about *", Takes(Intent::Recall)),
    ("@ did i tell|say|mention to? you? anything|something? about *", Takes(Intent::Recall)),
    ("@ where|what|when|who did i say|tell|put|leave|park|hide|lend you? that? *", Takes(Intent::Recall)),
    // Remember.
    ("remember|memorise|memorize that|this|it|something?", Is(|| Intent::RememberWhat)),
    ("make|take|write a? note|notes that|of|about? this|it?", Is(|| Intent::RememberWhat)),
    ("note|write that|this|it down?", Is(|| Intent::RememberWhat)),
    ("note|write|keep down|in mind? that|this|it", Is(|| Intent::RememberWhat)),
    ("@ remember|member|memorise|memorize|rememb down? that *", Takes(that)),
    ("@ make|take|write a? note|notes that|of *", Takes(something)),
    ("note|write|keep down|in? mind? that *", Takes(that)),
    ("remember|member|memorise|memorize to *", Takes(Intent::Remind)),
    ("remember|member|memorise|memorize *", Takes(something)),
];

/// Words that make a sentence out of the words behind them, so they are no noise: "I remember that …", "did
/// she remember that …".
const NOT_NOISE: &[&str] = &[
    "i", "you", "we", "he", "she", "they", "it", "who", "what", "when", "where", "why", "how", "which",
    "don't", "not", "never", "can't", "cannot", "couldn't", "won't", "didn't", "to", "do", "did", "does",
    "if", "that", "this", "the", "a", "my", "our", "your", "his", "her", "their", "is", "was", "are", "were",
    "will", "would", "always", "must", "should", "have", "has", "had", "people", "everyone", "nobody", "for",
    "of", "in", "on", "at", "but", "or", "because", "still", "tell", "told", "forget", "remember", "remind",
    "with", "about", "note", "write", "make", "let", "some", "no",
];

/// Understands `text`.
pub fn understand(text: &str) -> Intent {
    let words = command_of(text);
    if words.is_empty() {
        return Intent::Nothing;
    }
    let intent = by_pattern(text, &words);
    // An emoji is no word; if nothing else follows the order, it is the object of the order.
    if let Some(symbols) = symbols_behind(text, &words) {
        if intent == Some(Intent::RememberWhat) {
            return Intent::Remember { statement: original(text, &[symbols]), clause: false };
        }
        if matches!(intent, None | Some(Intent::Cancel))
            && let Some(found) = by_pattern(text, &[words.as_slice(), &[symbols]].concat())
            && (intent.is_none() || matches!(found, Intent::Remember { .. }))
        {
            return found;
        }
    }
    if let Some(intent) = intent {
        return intent;
    }
    if is_question(&words, text) { Intent::Question(original(text, &words)) } else { Intent::Other }
}

/// The intent of the first pattern that fits `words`.
fn by_pattern(text: &str, words: &[Word]) -> Option<Intent> {
    // A name said at the end belongs to no order, but may belong to a statement.
    let unnamed = match words.split_last() {
        Some((last, rest)) if last.norm == "jarvis" && !rest.is_empty() => rest,
        _ => words,
    };
    for (pattern, want) in PATTERNS {
        let words = match want {
            Is(_) => unnamed,
            Takes(_) => words,
        };
        let (pattern, noise) = match pattern.strip_prefix("@ ") {
            Some(pattern) => (pattern, 2),
            None => (*pattern, 0),
        };
        if let Some(taken) = after_noise(words, noise).find_map(|words| matches(words, pattern)) {
            match want {
                Is(intent) => return Some(intent()),
                Takes(intent) => {
                    let taken = original(text, taken);
                    if !taken.is_empty() {
                        return Some(intent(taken));
                    }
                }
            }
        }
    }
    None
}

/// `words`, and `words` without their first one to `noise` words if these can be noise.
fn after_noise(words: &[Word], noise: usize) -> impl Iterator<Item = &[Word]> {
    let can_be_noise =
        words.iter().take(noise).take_while(|word| !NOT_NOISE.contains(&word.norm.as_str())).count();
    (0..=can_be_noise).filter_map(|skip| words.get(skip..)).filter(|rest| !rest.is_empty())
}

fn is_question(words: &[Word], text: &str) -> bool {
    const ASKING: &[&str] = &[
        "what", "where", "when", "who", "whose", "why", "how", "which", "is", "are", "was", "were", "do",
        "does", "did", "can", "could", "will", "would", "should", "am", "have", "has",
    ];
    text.trim_end().ends_with('?') || words.first().is_some_and(|word| ASKING.contains(&word.norm.as_str()))
}
