//! MQTT topic filters.

/// Whether `topic` matches `filter` as AWS IoT Core matches: `+` one level, `#` the rest and the parent; a wildcard in
/// the first level does not match topics that begin with `$` (MQTT 3.1.1, 4.7.2).
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    matches_local(filter, topic)
}

/// The same without the rule about `$`, which Greengrass local publish/subscribe does not have.
pub fn matches_local(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        if part == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if part == "+" || part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Whether a topic has MQTT wildcards.
pub fn has_wildcard(topic: &str) -> bool {
    topic.contains(['+', '#'])
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("a/+/c", "a//c", true),
            ("a/#", "a/b/c", true),
            ("a/#", "a", true),
            ("a/b", "a", false),
            ("+/b", "a/b", true),
            ("#", "$aws/things", false),
            ("+/things", "$aws/things", false),
            ("$aws/things/+/shadow/#", "$aws/things/t/shadow/get/accepted", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }
}
