use proptest::prelude::*;

use super::*;

fn update(document: &ShadowDocument, request: &Value, now: u64) -> Update {
    document.update(request.to_string().as_bytes(), now).unwrap()
}

fn refused(document: &ShadowDocument, request: &str) -> u16 {
    document.update(request.as_bytes(), 1).unwrap_err().code
}

#[test]
fn a_first_update_makes_the_whole_document() {
    let request = json!({"state": {"desired": {"quarantine": true, "led": {"r": 1}}}, "clientToken": "t-1"});
    let first = update(&ShadowDocument::default(), &request, 100);
    let metadata = json!({"quarantine": {"timestamp": 100}, "led": {"r": {"timestamp": 100}}});
    assert_eq!(
        first.document.document(),
        json!({
            "state": {
                "desired": {"quarantine": true, "led": {"r": 1}},
                "delta": {"quarantine": true, "led": {"r": 1}},
            },
            "metadata": {"desired": metadata},
            "version": 1,
            "timestamp": 100,
        })
    );
    assert_eq!(
        first.accepted,
        json!({
            "state": {"desired": {"quarantine": true, "led": {"r": 1}}},
            "metadata": {"desired": metadata},
            "version": 1,
            "timestamp": 100,
            "clientToken": "t-1",
        })
    );
    assert_eq!(
        first.delta,
        Some(json!({
            "version": 1,
            "timestamp": 100,
            "state": {"quarantine": true, "led": {"r": 1}},
            "metadata": metadata,
            "clientToken": "t-1",
        }))
    );
    assert_eq!(
        first.documents["previous"],
        json!({"state": {}, "metadata": {}, "version": 0})
    );
    assert_eq!(first.documents["current"]["version"], json!(1));
    assert_eq!(first.documents["clientToken"], json!("t-1"));
}

#[test]
fn members_merge_and_keep_their_own_timestamps() {
    let first = update(
        &ShadowDocument::default(),
        &json!({"state": {"desired": {"a": 1, "o": {"x": 1, "y": 2}}}}),
        100,
    );
    let second = update(&first.document, &json!({"state": {"desired": {"o": {"y": 3}}}}), 200);
    let document = second.document.document();
    assert_eq!(document["state"]["desired"], json!({"a": 1, "o": {"x": 1, "y": 3}}));
    assert_eq!(
        document["metadata"]["desired"],
        json!({"a": {"timestamp": 100}, "o": {"x": {"timestamp": 100}, "y": {"timestamp": 200}}})
    );
    assert_eq!(document["version"], json!(2));
}

#[test]
fn null_deletes_a_key_and_a_section() {
    let state = json!({"state": {"desired": {"a": 1, "b": 2}, "reported": {"a": 1}}});
    let first = update(&ShadowDocument::default(), &state, 100);
    let second = update(
        &first.document,
        &json!({"state": {"desired": {"b": null}, "reported": null}}),
        200,
    );
    assert_eq!(
        second.document.document()["state"],
        json!({"desired": {"a": 1}, "delta": {"a": 1}})
    );
    assert_eq!(
        second.document.document()["metadata"],
        json!({"desired": {"a": {"timestamp": 100}}})
    );
    // The last key takes its section with it.
    let third = update(&second.document, &json!({"state": {"desired": {"a": null}}}), 300);
    assert_eq!(third.document.document()["state"], json!({}));
    assert_eq!(third.delta, None);
    // Nulls inside something new are left out.
    let fourth = update(
        &third.document,
        &json!({"state": {"reported": {"o": {"x": null, "y": 1}}}}),
        400,
    );
    assert_eq!(
        fourth.document.document()["state"],
        json!({"reported": {"o": {"y": 1}}})
    );
}

#[test]
fn the_delta_holds_only_what_differs() {
    let request = json!({"state": {
        "desired": {"same": 1, "number": 2, "list": [1, 2], "o": {"x": 1, "y": 2}, "new": true},
        "reported": {"same": 1, "number": 2.0, "list": [2, 1], "o": {"x": 1, "y": 3}, "own": 1},
    }});
    let update = update(&ShadowDocument::default(), &request, 5);
    let delta = update.delta.unwrap();
    assert_eq!(delta["state"], json!({"list": [1, 2], "o": {"y": 2}, "new": true}));
    assert_eq!(
        delta["metadata"],
        json!({"list": [{"timestamp": 5}, {"timestamp": 5}], "o": {"y": {"timestamp": 5}}, "new": {"timestamp": 5}})
    );
}

#[test]
fn no_delta_once_reported_agrees() {
    let first = update(
        &ShadowDocument::default(),
        &json!({"state": {"desired": {"quarantine": true}}}),
        1,
    );
    let second = update(
        &first.document,
        &json!({"state": {"reported": {"quarantine": true, "more": 1}}}),
        2,
    );
    assert_eq!(second.delta, None);
    assert!(second.document.document()["state"].get("delta").is_none());
}

#[test]
fn refuses_what_aws_refuses() {
    let document = update(&ShadowDocument::default(), &json!({"state": {"desired": {"a": 1}}}), 1).document;
    for request in [
        "",
        "nonsense",
        "[]",
        "{}",
        r#"{"state": 1}"#,
        r#"{"state": {"other": {}}}"#,
        r#"{"state": {"desired": 1}}"#,
        r#"{"state": {"desired": {}}, "version": "1"}"#,
        r#"{"state": {"desired": {}}, "version": -1}"#,
        r#"{"state": {"desired": {}}, "clientToken": 1}"#,
        r#"{"state": {"desired": {"a":{"b":{"c":{"d":{"e":{"f":{"g":1}}}}}}}}}"#,
        r#"{"state": {"desired": {"a":[[[[[[1]]]]]]}}}"#,
    ] {
        assert_eq!(refused(&document, request), 400, "{request}");
    }
    let six_levels = json!({"state": {"desired": {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}}});
    assert_eq!(update(&document, &six_levels, 1).document.version(), 2);
    assert_eq!(refused(&document, r#"{"state": {"desired": {}}, "version": 7}"#), 409);
    let token = "t".repeat(MAX_CLIENT_TOKEN_BYTES + 1);
    assert_eq!(
        refused(&document, &json!({"state": {}, "clientToken": token}).to_string()),
        400
    );
    let large = json!({"state": {"reported": {"x": "y".repeat(MAX_STATE_BYTES)}}}).to_string();
    assert_eq!(refused(&document, &large), 413);
}

#[test]
fn an_unknown_shadow_is_404_and_a_deleted_one_keeps_its_version() {
    let absent = ShadowDocument::default();
    assert_eq!(absent.get(b"").unwrap_err().code, 404);
    assert_eq!(absent.delete(b"", 1).unwrap_err().code, 404);
    let first = update(&absent, &json!({"state": {"desired": {"a": 1}}}), 1).document;
    let second = update(&first, &json!({"state": {"desired": {"a": 2}}}), 2).document;
    let (left, accepted) = second.delete(br#"{"clientToken": "d"}"#, 3).unwrap();
    assert_eq!(accepted, json!({"version": 2, "timestamp": 3, "clientToken": "d"}));
    assert!(!left.exists());
    let back = ShadowDocument::parse(left.stored().to_string().as_bytes()).unwrap();
    assert_eq!(back, left);
    let third = update(&back, &json!({"state": {"desired": {"b": 1}}}), 4).document;
    assert_eq!(third.version(), 3);
    assert_eq!(third.document()["state"]["desired"], json!({"b": 1}));
}

#[test]
fn get_echoes_the_client_token() {
    let document = update(&ShadowDocument::default(), &json!({"state": {"reported": {"a": 1}}}), 1).document;
    assert_eq!(
        document.get(br#"{"clientToken":"x"}"#).unwrap()["clientToken"],
        json!("x")
    );
    assert_eq!(document.get(b"").unwrap(), document.document());
    let rejection = ShadowDocument::default().get(br#"{"clientToken":"x"}"#).unwrap_err();
    let message = rejection.message(9);
    assert_eq!(
        (&message["code"], &message["clientToken"], &message["timestamp"]),
        (&json!(404), &json!("x"), &json!(9))
    );
}

#[test]
fn a_document_written_by_hand_gets_metadata() {
    let stored =
        br#"{"state":{"desired":{"a":{"b":1}},"delta":{}},"metadata":{"desired":7},"version":4,"timestamp":50}"#;
    let document = ShadowDocument::parse(stored).unwrap();
    assert_eq!(
        document.document()["metadata"],
        json!({"desired": {"a": {"b": {"timestamp": 50}}}})
    );
    for broken in [
        "",
        "[]",
        "{}",
        r#"{"version":1}"#,
        r#"{"version":1,"timestamp":1,"state":[]}"#,
    ] {
        assert!(ShadowDocument::parse(broken.as_bytes()).is_err(), "{broken}");
    }
}

fn any_value(levels: u32) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..3).prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(levels, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::vec(("[a-d]", inner), 0..3)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn any_section() -> impl Strategy<Value = Value> {
    proptest::collection::vec(("[a-d]", any_value(3)), 0..4)
        .prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
}

fn any_patch() -> impl Strategy<Value = Value> {
    (proptest::option::of(any_section()), proptest::option::of(any_section())).prop_map(|(desired, reported)| {
        let mut state = Map::new();
        state.extend(desired.map(|section| ("desired".to_owned(), section)));
        state.extend(reported.map(|section| ("reported".to_owned(), section)));
        json!({ "state": state })
    })
}

/// Whether metadata has exactly the shape of the state.
fn shaped(state: &Value, metadata: &Value) -> bool {
    match state {
        Value::Object(members) => metadata.as_object().is_some_and(|metadata| {
            let all = members
                .iter()
                .all(|(name, value)| metadata.get(name).is_some_and(|inner| shaped(value, inner)));
            all && metadata.len() == members.len()
        }),
        Value::Array(items) => metadata.as_array().is_some_and(|metadata| {
            metadata.len() == items.len() && items.iter().zip(metadata).all(|(item, inner)| shaped(item, inner))
        }),
        _ => metadata.get("timestamp").is_some_and(Value::is_u64),
    }
}

proptest! {
    #[test]
    fn every_history_keeps_the_document_consistent(patches in proptest::collection::vec(any_patch(), 1..6)) {
        let mut document = ShadowDocument::default();
        for (step, patch) in patches.iter().enumerate() {
            let now = step as u64 + 10;
            let next = update(&document, patch, now);
            prop_assert_eq!(next.document.version(), document.version() + 1);
            let whole = next.document.document();
            for section in ["desired", "reported"] {
                match whole["state"].get(section) {
                    None => prop_assert!(whole["metadata"].get(section).is_none()),
                    Some(state) => {
                        prop_assert!(!state.as_object().unwrap().is_empty());
                        prop_assert!(shaped(state, &whole["metadata"][section]));
                    }
                }
            }
            // What is stored is what was there.
            let back = ShadowDocument::parse(next.document.stored().to_string().as_bytes()).unwrap();
            prop_assert_eq!(&back, &next.document);
            document = next.document;
        }
    }

    /// A device that reports its delta has none afterwards: the delta is all that differs.
    #[test]
    fn reporting_the_delta_settles_it(first in any_patch(), second in any_patch()) {
        let document = update(&update(&ShadowDocument::default(), &first, 1).document, &second, 2);
        if let Some(delta) = &document.delta {
            // Nulls within arrays cannot come back by a merge of objects, but arrays are reported whole.
            let settled = update(&document.document, &json!({"state": {"reported": delta["state"]}}), 3);
            prop_assert_eq!(settled.delta, None);
        } else {
            prop_assert!(document.document.delta().is_none());
        }
    }

    #[test]
    fn no_request_is_a_problem(request in proptest::collection::vec(any::<u8>(), 0..60), patch in any_value(4)) {
        let document = ShadowDocument::default();
        let _ = document.update(&request, 1);
        let _ = document.update(patch.to_string().as_bytes(), 1);
        let _ = document.delete(&request, 1);
        let _ = document.get(&request);
        let _ = ShadowDocument::parse(&request);
    }
}
