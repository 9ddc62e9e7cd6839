//! The topics we speak on: built, recognised, matched. Pure.
//!
//! Sources: AWS IoT "Reserved topics" (Device Defender, Device Shadow); MQTT 3.1.1 section 4.7 for filters.

use std::fmt;
use std::str::FromStr;

use crate::model::ThingName;

/// The name of a named shadow: `[a-zA-Z0-9:_-]{1,64}` (API UpdateThingShadow).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShadowName(String);

/// Text that no named shadow can be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a shadow name (1 to 64 of a-z A-Z 0-9 : _ -)")]
pub struct ShadowNameError(pub String);

impl ShadowName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShadowName {
    type Err = ShadowNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
            return Err(ShadowNameError(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ShadowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The format of a Device Defender report, and of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricsFormat {
    /// `.../metrics/json`
    Json,
    /// `.../metrics/cbor`
    Cbor,
}

impl MetricsFormat {
    const fn segment(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Cbor => "cbor",
        }
    }
}

/// What a message on a Device Defender topic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricsStep {
    /// The report itself.
    Report,
    /// AWS took it.
    Accepted,
    /// AWS refused it.
    Rejected,
}

impl MetricsStep {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Report => "",
            Self::Accepted => "/accepted",
            Self::Rejected => "/rejected",
        }
    }
}

/// What a message on a shadow topic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShadowStep {
    /// Ask for the document.
    Get,
    /// The document.
    GetAccepted,
    /// There is none, or it may not be read.
    GetRejected,
    /// Change it.
    Update,
    /// What was changed.
    UpdateAccepted,
    /// It was not changed.
    UpdateRejected,
    /// The desired keys that differ from the reported ones.
    UpdateDelta,
    /// The documents before and after.
    UpdateDocuments,
    /// Delete it.
    Delete,
    /// It was deleted.
    DeleteAccepted,
    /// It was not deleted.
    DeleteRejected,
}

impl ShadowStep {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Get,
        Self::GetAccepted,
        Self::GetRejected,
        Self::Update,
        Self::UpdateAccepted,
        Self::UpdateRejected,
        Self::UpdateDelta,
        Self::UpdateDocuments,
        Self::Delete,
        Self::DeleteAccepted,
        Self::DeleteRejected,
    ];

    const fn path(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::GetAccepted => "get/accepted",
            Self::GetRejected => "get/rejected",
            Self::Update => "update",
            Self::UpdateAccepted => "update/accepted",
            Self::UpdateRejected => "update/rejected",
            Self::UpdateDelta => "update/delta",
            Self::UpdateDocuments => "update/documents",
            Self::Delete => "delete",
            Self::DeleteAccepted => "delete/accepted",
            Self::DeleteRejected => "delete/rejected",
        }
    }
}

/// A topic we know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// `$aws/things/T/defender/metrics/{json|cbor}[/accepted|/rejected]`
    Metrics {
        /// Whose report.
        thing: ThingName,
        /// In which format.
        format: MetricsFormat,
        /// The report or an answer to it.
        step: MetricsStep,
    },
    /// `$aws/things/T/shadow[/name/S]/...`
    Shadow {
        /// Whose shadow.
        thing: ThingName,
        /// `None`: the classic shadow.
        shadow: Option<ShadowName>,
        /// What about it.
        step: ShadowStep,
    },
    /// `edge-warden/CORE/violations`: violation events, in AWS's form.
    Violations {
        /// The core device that detected them.
        core: ThingName,
    },
    /// `edge-warden/things/T/register`: a client device tells its addresses.
    Register {
        /// The device, as proven by client device auth's policy variable.
        thing: ThingName,
    },
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            Self::Metrics { thing, format, step } => metrics(Some(thing), *format, *step),
            Self::Shadow { thing, shadow, step } => self::shadow(Some(thing), shadow.as_ref(), *step),
            Self::Violations { core } => violations(core),
            Self::Register { thing } => register(Some(thing)),
        })
    }
}

fn things(thing: Option<&ThingName>) -> &str {
    thing.map_or("+", ThingName::as_str)
}

/// The topic of a Device Defender report or of an answer to it; `None` makes a filter for all things.
#[must_use]
pub fn metrics(thing: Option<&ThingName>, format: MetricsFormat, step: MetricsStep) -> String {
    format!(
        "$aws/things/{}/defender/metrics/{}{}",
        things(thing),
        format.segment(),
        step.suffix()
    )
}

/// A shadow topic; `thing` `None` makes a filter for all things, `shadow` `None` means the classic shadow.
#[must_use]
pub fn shadow(thing: Option<&ThingName>, shadow: Option<&ShadowName>, step: ShadowStep) -> String {
    match shadow {
        None => format!("$aws/things/{}/shadow/{}", things(thing), step.path()),
        Some(name) => format!("$aws/things/{}/shadow/name/{name}/{}", things(thing), step.path()),
    }
}

/// The topic of this core device's violation events.
#[must_use]
pub fn violations(core: &ThingName) -> String {
    format!("edge-warden/{core}/violations")
}

/// The topic on which a client device registers its addresses; `None` makes a filter for all things.
#[must_use]
pub fn register(thing: Option<&ThingName>) -> String {
    format!("edge-warden/things/{}/register", things(thing))
}

/// Recognise a topic; `None` for any other, and for names that no thing or shadow can have.
#[must_use]
pub fn parse(topic: &str) -> Option<Topic> {
    if let Some(rest) = topic.strip_prefix("$aws/things/") {
        let (thing, rest) = rest.split_once('/')?;
        let thing = thing.parse().ok()?;
        if let Some(rest) = rest.strip_prefix("defender/metrics/") {
            return parse_metrics(thing, rest);
        }
        let rest = rest.strip_prefix("shadow/")?;
        let (shadow, path) = match rest.strip_prefix("name/") {
            None => (None, rest),
            Some(rest) => {
                let (name, path) = rest.split_once('/')?;
                (Some(name.parse().ok()?), path)
            }
        };
        let step = ShadowStep::ALL.into_iter().find(|step| step.path() == path)?;
        return Some(Topic::Shadow { thing, shadow, step });
    }
    let (name, rest) = topic.strip_prefix("edge-warden/")?.split_once('/')?;
    if rest == "violations" {
        return Some(Topic::Violations {
            core: name.parse().ok()?,
        });
    }
    let thing = rest.strip_suffix("/register").filter(|_| name == "things")?;
    Some(Topic::Register {
        thing: thing.parse().ok()?,
    })
}

fn parse_metrics(thing: ThingName, rest: &str) -> Option<Topic> {
    let (format, answer) = rest
        .split_once('/')
        .map_or((rest, None), |(format, answer)| (format, Some(answer)));
    let format = match format {
        "json" => MetricsFormat::Json,
        "cbor" => MetricsFormat::Cbor,
        _ => return None,
    };
    let step = match answer {
        None => MetricsStep::Report,
        Some("accepted") => MetricsStep::Accepted,
        Some("rejected") => MetricsStep::Rejected,
        Some(_) => return None,
    };
    Some(Topic::Metrics { thing, format, step })
}

/// Whether a topic filter matches a topic, by MQTT 3.1.1 section 4.7: `+` is one level, `#` at the end is the rest
/// including the parent, and a filter that begins with a wildcard does not match topics that begin with `$`.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut wanted = filter.split('/');
    let mut levels = topic.split('/');
    loop {
        match (wanted.next(), levels.next()) {
            (Some("#"), _) => return wanted.next().is_none(),
            (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn thing(name: &str) -> ThingName {
        name.parse().unwrap()
    }

    #[test]
    fn builds_the_topics_of_aws() {
        let cam = thing("cam-1");
        assert_eq!(
            metrics(Some(&cam), MetricsFormat::Cbor, MetricsStep::Report),
            "$aws/things/cam-1/defender/metrics/cbor"
        );
        assert_eq!(
            metrics(None, MetricsFormat::Json, MetricsStep::Accepted),
            "$aws/things/+/defender/metrics/json/accepted"
        );
        assert_eq!(
            shadow(Some(&cam), None, ShadowStep::Get),
            "$aws/things/cam-1/shadow/get"
        );
        let quarantine = "quarantine".parse().unwrap();
        assert_eq!(
            shadow(None, Some(&quarantine), ShadowStep::UpdateDelta),
            "$aws/things/+/shadow/name/quarantine/update/delta"
        );
        assert_eq!(violations(&thing("gw")), "edge-warden/gw/violations");
        assert_eq!(register(None), "edge-warden/things/+/register");
    }

    #[test]
    fn recognises_nothing_else() {
        for topic in [
            "",
            "$aws/things/cam-1",
            "$aws/things/a b/shadow/get",
            "$aws/things//shadow/get",
            "$aws/things/cam-1/shadow",
            "$aws/things/cam-1/shadow/name/get",
            "$aws/things/cam-1/shadow/name//get",
            "$aws/things/cam-1/shadow/get/accepted/x",
            "$aws/things/cam-1/defender/metrics/xml",
            "$aws/things/cam-1/defender/metrics/json/",
            "edge-warden/things/cam-1/other",
            "edge-warden/things/a/b/register",
            "edge-warden/violations",
        ] {
            assert_eq!(parse(topic), None, "{topic}");
        }
        // A core device may be called "things".
        assert_eq!(
            parse("edge-warden/things/violations"),
            Some(Topic::Violations { core: thing("things") })
        );
    }

    #[test]
    fn filters_match_as_mqtt_says() {
        for (filter, topic) in [
            ("a/b", "a/b"),
            ("a/+", "a/b"),
            ("a/+/c", "a//c"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("#", "a/b"),
            ("+", "a"),
            ("+/+", "/a"),
            ("$aws/things/+/shadow/#", "$aws/things/t/shadow/get"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("a/b", "a/b/c"),
            ("a/b/c", "a/b"),
            ("a/+", "a"),
            ("a/+", "a/b/c"),
            ("#", "$aws/things"),
            ("+/things", "$aws/things"),
            ("a/#/c", "a/b/c"),
            ("a", "A"),
            ("+", "a/b"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    fn any_topic() -> impl Strategy<Value = Topic> {
        let name = "[a-zA-Z0-9:_-]{1,12}".prop_map(|name| thing(&name));
        let shadow = proptest::option::of("[a-zA-Z0-9:_-]{1,12}".prop_map(|name| name.parse().unwrap()));
        prop_oneof![
            (
                name.clone(),
                prop_oneof![Just(MetricsFormat::Json), Just(MetricsFormat::Cbor)],
                prop_oneof![
                    Just(MetricsStep::Report),
                    Just(MetricsStep::Accepted),
                    Just(MetricsStep::Rejected)
                ],
            )
                .prop_map(|(thing, format, step)| Topic::Metrics { thing, format, step }),
            (name.clone(), shadow, proptest::sample::select(ShadowStep::ALL.to_vec()))
                .prop_map(|(thing, shadow, step)| Topic::Shadow { thing, shadow, step }),
            name.clone().prop_map(|core| Topic::Violations { core }),
            name.prop_map(|thing| Topic::Register { thing }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_built_is_recognised(topic in any_topic()) {
            let text = topic.to_string();
            prop_assert_eq!(parse(&text), Some(topic));
            prop_assert!(matches(&text, &text));
        }

        #[test]
        fn no_text_is_a_problem(filter in ".{0,40}", topic in ".{0,40}") {
            let _ = matches(&filter, &topic);
            if let Some(known) = parse(&topic) {
                prop_assert_eq!(known.to_string(), topic);
            }
        }
    }
}
