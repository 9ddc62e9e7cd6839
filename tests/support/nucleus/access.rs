//! `accessControl`: which component may do what, by the matching rules of each nucleus.
//!
//! Sources: classic `authorization/{AuthorizationHandler,AuthorizationModule,WildcardTrie}.java`; lite
//! `modules/ggipcd/src/ipc_authz.c`, `services/mqttproxy/mqttproxy.c`, `modules/ggl-policy-validation`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Kind;

/// The accessControl service of IoT Core publish and subscribe.
pub const MQTT_PROXY: &str = "aws.greengrass.ipc.mqttproxy";
/// The accessControl service of local publish/subscribe.
pub const PUBSUB: &str = "aws.greengrass.ipc.pubsub";
/// The accessControl service of the local shadow service.
pub const SHADOW_MANAGER: &str = "aws.greengrass.ShadowManager";

/// The operations each service knows; classic leaves out a policy that names another one.
const OPERATIONS: [(&str, &[&str]); 3] = [
    (
        MQTT_PROXY,
        &["aws.greengrass#PublishToIoTCore", "aws.greengrass#SubscribeToIoTCore"],
    ),
    (
        PUBSUB,
        &["aws.greengrass#PublishToTopic", "aws.greengrass#SubscribeToTopic"],
    ),
    (
        SHADOW_MANAGER,
        &[
            "aws.greengrass#GetThingShadow",
            "aws.greengrass#UpdateThingShadow",
            "aws.greengrass#DeleteThingShadow",
            "aws.greengrass#ListNamedShadowsForThing",
        ],
    ),
];

/// One thing a policy grants: an operation or a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// `aws.greengrass.ipc.mqttproxy`, ...
    pub service: String,
    /// The policy id.
    pub policy: String,
    /// `aws.greengrass#...`, or the resource as written.
    pub what: String,
}

#[derive(Debug)]
struct Policy {
    service: String,
    id: String,
    operations: Vec<String>,
    resources: Vec<String>,
}

/// The policies of one component and which of their grants have been used.
#[derive(Debug)]
pub struct AccessControl {
    kind: Kind,
    thing_name: String,
    /// `None`: no accessControl given to the test, everything is allowed.
    policies: Option<Vec<Policy>>,
    used: BTreeSet<Grant>,
}

impl AccessControl {
    /// Loads the `accessControl` object of a recipe as a deployment would.
    ///
    /// # Errors
    /// What makes nucleus lite refuse the deployment, or classic leave out a policy: in a test both are mistakes.
    pub fn load(kind: Kind, thing_name: &str, access_control: Option<&Value>) -> Result<Self, String> {
        let policies = access_control.map(|value| load_policies(kind, value)).transpose()?;
        Ok(Self {
            kind,
            thing_name: thing_name.to_owned(),
            policies,
            used: BTreeSet::new(),
        })
    }

    /// Whether `operation` on `resource` is granted. The first grant that allows it is recorded as used.
    pub fn allows(&mut self, service: &str, operation: &str, resource: &str) -> bool {
        let Some(policies) = &self.policies else { return true };
        if self.kind == Kind::Lite && validate_resource(resource).is_err() {
            return false;
        }
        let found = policies
            .iter()
            .filter(|policy| policy.service == service)
            .find_map(|policy| {
                let granted = policy
                    .operations
                    .iter()
                    .find(|granted| *granted == "*" || *granted == operation)?;
                let matching = policy
                    .resources
                    .iter()
                    .find(|pattern| self.resource_matches(service, pattern, resource))?;
                Some([granted, matching].map(|what| Grant {
                    service: service.to_owned(),
                    policy: policy.id.clone(),
                    what: what.clone(),
                }))
            });
        let allowed = found.is_some();
        self.used.extend(found.into_iter().flatten());
        allowed
    }

    /// The grants no operation has needed so far.
    pub fn unused(&self) -> Vec<Grant> {
        let all = self.policies.iter().flatten().flat_map(|policy| {
            policy.operations.iter().chain(&policy.resources).map(|what| Grant {
                service: policy.service.clone(),
                policy: policy.id.clone(),
                what: what.clone(),
            })
        });
        all.filter(|grant| !self.used.contains(grant)).collect()
    }

    fn resource_matches(&self, service: &str, pattern: &str, resource: &str) -> bool {
        let mqtt = service == MQTT_PROXY;
        match self.kind {
            Kind::Classic => glob(&classic_tokens(pattern, mqtt), resource),
            Kind::Lite => {
                let pattern = pattern.replace("{iot:thingName}", &self.thing_name);
                let literal_and_star = classic_tokens(&pattern, false);
                glob(&literal_and_star, resource) || (mqtt && lite_mqtt(&pattern, resource))
            }
        }
    }
}

fn load_policies(kind: Kind, access_control: &Value) -> Result<Vec<Policy>, String> {
    let mut policies = Vec::new();
    let mut ids = BTreeSet::new();
    for (service, by_id) in access_control.as_object().ok_or("accessControl is not an object")? {
        for (id, policy) in by_id
            .as_object()
            .ok_or_else(|| format!("accessControl.{service} is not an object"))?
        {
            let list = |key: &str| -> Result<Vec<String>, String> {
                let list = policy
                    .get(key)
                    .and_then(Value::as_array)
                    .ok_or_else(|| format!("{id}: no list {key}"))?;
                let texts = list.iter().map(|item| item.as_str().map(str::to_owned));
                texts
                    .collect::<Option<_>>()
                    .ok_or_else(|| format!("{id}: {key} holds something that is no string"))
            };
            let (operations, resources) = (list("operations")?, list("resources")?);
            if operations.is_empty() || resources.is_empty() {
                return Err(format!("{id}: no operations or no resources"));
            }
            if !ids.insert(id.clone()) {
                return Err(format!("{id}: the policy id is used twice"));
            }
            for resource in &resources {
                validate_resource(resource).map_err(|problem| format!("{id}: resource {resource}: {problem}"))?;
                if kind == Kind::Lite && resource.contains('*') && resource.contains(['+', '#']) {
                    return Err(format!(
                        "{id}: resource {resource}: nucleus lite cannot mix * with + or #"
                    ));
                }
            }
            let known = OPERATIONS
                .iter()
                .find(|(name, _)| name == service)
                .map(|(_, known)| *known);
            if let Some(unknown) = operations
                .iter()
                .find(|operation| *operation != "*" && !known.is_some_and(|known| known.contains(&operation.as_str())))
            {
                return Err(format!("{id}: {service} has no operation {unknown}"));
            }
            policies.push(Policy {
                service: service.clone(),
                id: id.clone(),
                operations,
                resources,
            });
        }
    }
    Ok(policies)
}

/// A bare `?` and any `${..}` other than `${*}`, `${?}`, `${$}` are refused by both nuclei.
fn validate_resource(resource: &str) -> Result<(), String> {
    if resource.is_empty() {
        return Err("empty".to_owned());
    }
    let mut rest = resource;
    while let Some(character) = rest.chars().next() {
        if rest.starts_with("${") {
            rest = ["${*}", "${?}", "${$}"]
                .iter()
                .find_map(|escape| rest.strip_prefix(escape))
                .ok_or_else(|| format!("bad escape at {rest}"))?;
            continue;
        }
        if character == '?' {
            return Err("a bare ? (write ${?})".to_owned());
        }
        rest = &rest[character.len_utf8()..];
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Character(char),
    /// `*`: anything, across levels.
    Any,
    /// `+`: anything within one level.
    Level,
    /// `/#` at the end: this level and everything below.
    Below,
}

/// Classic: `*` everywhere; with `mqtt`, `+` when it is a whole level and `#` when it is the whole last level.
fn classic_tokens(pattern: &str, mqtt: bool) -> Vec<Token> {
    let characters: Vec<char> = pattern.chars().collect();
    let at = |index: usize| characters.get(index).copied();
    let mut tokens = Vec::new();
    let mut index = 0;
    while let Some(character) = at(index) {
        let starts_level = index == 0 || at(index - 1) == Some('/');
        match character {
            '$' if at(index + 1) == Some('{') && at(index + 3) == Some('}') => {
                tokens.extend(at(index + 2).map(Token::Character));
                index += 3;
            }
            '*' => tokens.push(Token::Any),
            '+' if mqtt && starts_level && matches!(at(index + 1), None | Some('/')) => tokens.push(Token::Level),
            '#' if mqtt && starts_level && at(index + 1).is_none() => {
                if tokens.last() == Some(&Token::Character('/')) {
                    tokens.pop();
                }
                tokens.push(Token::Below);
            }
            other => tokens.push(Token::Character(other)),
        }
        index += 1;
    }
    tokens
}

fn glob(tokens: &[Token], text: &str) -> bool {
    let Some((first, rest)) = tokens.split_first() else {
        return text.is_empty();
    };
    let tails = || text.char_indices().map(|(index, _)| &text[index..]).chain([""]);
    match first {
        Token::Character(expected) => text.strip_prefix(*expected).is_some_and(|tail| glob(rest, tail)),
        Token::Any => tails().any(|tail| glob(rest, tail)),
        Token::Level => tails()
            .take_while(|tail| !text[..text.len() - tail.len()].contains('/'))
            .any(|t| glob(rest, t)),
        Token::Below => text.is_empty() || text.starts_with('/') || tokens.len() == 1 && !text.starts_with('/'),
    }
}

/// Lite: `+` takes the rest of the level, `#` ends the comparison, `*` is an ordinary character here.
fn lite_mqtt(pattern: &str, resource: &str) -> bool {
    let mut rest = resource;
    for character in pattern.chars() {
        match character {
            '#' => return true,
            '+' => rest = rest.find('/').map_or("", |slash| &rest[slash..]),
            '*' => return false,
            other => match rest.strip_prefix(other) {
                Some(tail) => rest = tail,
                None => return false,
            },
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{AccessControl, Kind, MQTT_PROXY, PUBSUB, SHADOW_MANAGER};

    fn allows(kind: Kind, service: &str, operation: &str, pattern: &str, asked: &str) -> bool {
        let policy = json!({service: {"p": {"operations": [operation], "resources": [pattern]}}});
        AccessControl::load(kind, "gateway-1", Some(&policy))
            .unwrap()
            .allows(service, operation, asked)
    }

    /// The table of reference/greengrass.md D.2, which was run against both nuclei's matchers.
    #[test]
    fn the_table_of_wildcards() {
        let get = "aws.greengrass#GetThingShadow";
        let subscribe = "aws.greengrass#SubscribeToIoTCore";
        let local = "aws.greengrass#SubscribeToTopic";
        let publish = "aws.greengrass#PublishToIoTCore";
        for kind in [Kind::Classic, Kind::Lite] {
            for (service, operation, pattern, asked, expected) in [
                (
                    SHADOW_MANAGER,
                    get,
                    "$aws/things/*/shadow/*",
                    "$aws/things/dev1/shadow",
                    false,
                ),
                (
                    SHADOW_MANAGER,
                    get,
                    "$aws/things/*/shadow",
                    "$aws/things/dev1/shadow",
                    true,
                ),
                (
                    SHADOW_MANAGER,
                    get,
                    "$aws/things/*/shadow/name/*",
                    "$aws/things/dev1/shadow/name/q",
                    true,
                ),
                (
                    SHADOW_MANAGER,
                    get,
                    "$aws/things/*/shadow*",
                    "$aws/things/dev1/shadow",
                    true,
                ),
                (
                    SHADOW_MANAGER,
                    get,
                    "$aws/things/*/shadow/",
                    "$aws/things/dev1/shadow",
                    false,
                ),
                (
                    MQTT_PROXY,
                    subscribe,
                    "$aws/things/*/shadow/*",
                    "$aws/things/+/shadow/update/documents",
                    true,
                ),
                (
                    PUBSUB,
                    local,
                    "$aws/things/*/shadow/*",
                    "$aws/things/+/shadow/update/documents",
                    true,
                ),
                (
                    PUBSUB,
                    local,
                    "$aws/things/+/shadow/#",
                    "$aws/things/dev1/shadow/update/delta",
                    false,
                ),
                (PUBSUB, local, "$aws/things/+/shadow/#", "$aws/things/+/shadow/#", true),
                (
                    MQTT_PROXY,
                    publish,
                    "$aws/things/+/defender/metrics/json",
                    "$aws/things/d/defender/metrics/json",
                    true,
                ),
                (
                    MQTT_PROXY,
                    publish,
                    "$aws/things/*/defender/metrics/*",
                    "$aws/things/d/defender/metrics/json",
                    true,
                ),
                (MQTT_PROXY, publish, "a/+", "a/b/c", false),
                (MQTT_PROXY, publish, "a/#", "a/b/c", true),
                (MQTT_PROXY, publish, "a/${*}", "a/b", false),
                (PUBSUB, local, "a/${*}", "a/*", true),
                (PUBSUB, local, "*", "a/b", true),
            ] {
                let got = allows(kind, service, operation, pattern, asked);
                assert_eq!(got, expected, "{kind:?} {service} {pattern} {asked}");
            }
        }
    }

    #[test]
    fn where_the_nuclei_differ() {
        let publish = "aws.greengrass#PublishToIoTCore";
        assert!(allows(Kind::Classic, MQTT_PROXY, publish, "a/*/+/c", "a/x/y/b/c"));
        assert!(allows(Kind::Classic, MQTT_PROXY, publish, "a/#", "a"));
        assert!(!allows(Kind::Lite, MQTT_PROXY, publish, "a/#", "a"));
        assert!(allows(
            Kind::Lite,
            MQTT_PROXY,
            publish,
            "a/{iot:thingName}",
            "a/gateway-1"
        ));
        assert!(!allows(
            Kind::Classic,
            MQTT_PROXY,
            publish,
            "a/{iot:thingName}",
            "a/gateway-1"
        ));
        let mixed = json!({MQTT_PROXY: {"p": {"operations": [publish], "resources": ["a/*/+"]}}});
        assert!(AccessControl::load(Kind::Lite, "t", Some(&mixed)).is_err());
    }

    #[test]
    fn mistakes_are_refused() {
        for policy in [
            json!({MQTT_PROXY: {"p": {"operations": ["aws.greengrass#Nothing"], "resources": ["*"]}}}),
            json!({MQTT_PROXY: {"p": {"operations": ["*"], "resources": ["a?"]}}}),
            json!({MQTT_PROXY: {"p": {"operations": ["*"], "resources": ["a/${x}"]}}}),
            json!({MQTT_PROXY: {"p": {"operations": ["*"]}}}),
            json!({"no.such.service": {"p": {"operations": ["aws.greengrass#GetThingShadow"], "resources": ["*"]}}}),
            json!({MQTT_PROXY: {"p": {"operations": ["*"], "resources": ["*"]}},
                   PUBSUB: {"p": {"operations": ["*"], "resources": ["*"]}}}),
        ] {
            assert!(
                AccessControl::load(Kind::Classic, "t", Some(&policy)).is_err(),
                "{policy}"
            );
        }
    }

    #[test]
    fn unused_grants_are_named() {
        let publish = "aws.greengrass#PublishToIoTCore";
        let policy = json!({MQTT_PROXY: {"p": {
            "operations": [publish, "aws.greengrass#SubscribeToIoTCore"], "resources": ["a", "b"]}}});
        let mut access = AccessControl::load(Kind::Classic, "t", Some(&policy)).unwrap();
        assert!(access.allows(MQTT_PROXY, publish, "a"));
        assert!(!access.allows(MQTT_PROXY, publish, "c"));
        let unused: Vec<_> = access.unused().into_iter().map(|grant| grant.what).collect();
        assert_eq!(unused, ["aws.greengrass#SubscribeToIoTCore", "b"]);
    }
}
