//! Names of things, and patterns for them.

/// A name AWS IoT takes for a thing: `[a-zA-Z0-9:_-]{1,128}` (API CreateThing).
pub fn is_thing_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(allowed)
}

/// Names, each written out or as a beginning with `*` after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// From a list with commas; empty parts are nothing.
    pub fn parse(list: &str) -> Self {
        let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
        Self(parts.map(str::to_owned).collect())
    }

    /// Whether one of them is the name or a beginning of it.
    pub fn matches(&self, name: &str) -> bool {
        self.closeness(name).is_some()
    }

    /// How closely the closest of them fits: more for a longer beginning, most for the name itself. `None`: none fits.
    pub fn closeness(&self, name: &str) -> Option<usize> {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning).then_some(beginning.len()),
            None => (name == pattern).then_some(usize::MAX),
        };
        self.0.iter().filter_map(fits).max()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_a_beginning() {
        let patterns = Patterns::parse(" gateway-1, site-2-* ,,");
        for (name, expected) in [
            ("gateway-1", true),
            ("gateway-10", false),
            ("site-2-cam", true),
            ("site-2-", true),
            ("site-20", false),
            ("", false),
        ] {
            assert_eq!(patterns.matches(name), expected, "{name}");
        }
        let fits = |name| patterns.closeness(name);
        assert_eq!(
            (fits("gateway-1"), fits("site-2-cam"), fits("x")),
            (Some(usize::MAX), Some(7), None)
        );
        assert!(Patterns::parse("*").matches("anything"));
        assert!(Patterns::parse("").is_empty() && !Patterns::parse("").matches(""));
    }
}
