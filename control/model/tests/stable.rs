//! Whatever is accepted has one canonical form: it is read again as itself, however it was written.

use march_model::{Batch, Document, Others, Plan, Source, State, Timestamp};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, TestRunner};

/// The documents that the generated ones name.
const AROUND: &str = r"
apiVersion: marchproxy/v1
kind: Port
metadata: { name: p0 }
spec: { node: n, interface: e0 }
---
apiVersion: marchproxy/v1
kind: Port
metadata: { name: p1 }
spec: { node: n, interface: e1 }
---
apiVersion: marchproxy/v1
kind: AddressSet
metadata: { name: a, labels: { collection: c } }
spec: { prefixes: [10.0.0.0/8, '2001:db8::/32'] }
---
apiVersion: marchproxy/v1
kind: AddressSet
metadata: { name: b }
spec: { prefixes: [] }
---
apiVersion: marchproxy/v1
kind: RateLimit
metadata: { name: l }
spec: { packets: 5 }
---
apiVersion: marchproxy/v1
kind: Pool
metadata: { name: s }
spec: { backends: [{ address: 10.0.0.1 }] }
---
apiVersion: marchproxy/v1
kind: Service
metadata: { name: s, labels: { collection: c } }
spec: { address: 192.0.2.10, port: 1-100, protocol: tcp, pool: s }
---
";

fn plan(text: &str) -> Option<Plan> {
    let source = Source {
        name: String::new(),
        text: text.to_owned(),
    };
    let batch = Batch::parse(&[source]);
    State::default()
        .plan(batch, Others::Keep, Timestamp::EPOCH)
        .ok()
}

/// A list with some of these, in any order.
fn some(items: &'static [&'static str]) -> impl Strategy<Value = String> {
    subsequence(items, 0..=items.len())
        .prop_shuffle()
        .prop_map(|items| format!("[{}]", items.join(", ")))
}

fn one(items: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(items).prop_map(str::to_owned)
}

/// A mapping with some of these fields, in any order.
fn fields(all: Vec<(&'static str, BoxedStrategy<String>)>) -> impl Strategy<Value = String> {
    let present: Vec<_> = all
        .into_iter()
        .map(|(name, value)| {
            proptest::option::weighted(0.4, value.prop_map(move |value| format!("{name}: {value}")))
        })
        .collect();
    let shuffled = present.prop_map(|fields| fields.into_iter().flatten().collect::<Vec<_>>());
    shuffled
        .prop_shuffle()
        .prop_map(|fields| format!("{{ {} }}", fields.join(", ")))
}

fn matches() -> impl Strategy<Value = String> {
    const PREFIXES: &[&str] = &[
        "10.0.0.0/8",
        "10.0.0.1",
        "0.0.0.0/0",
        "'2001:db8::/32'",
        "'2001:db8::1'",
        "'::/0'",
    ];
    const PORTS: &[&str] = &["80", "443", "'1024-65535'", "'80-90'"];
    fields(vec![
        ("sources", some(PREFIXES).boxed()),
        ("sourceSets", some(&["a", "b"]).boxed()),
        ("notSourceSets", some(&["a", "b"]).boxed()),
        ("destinations", some(PREFIXES).boxed()),
        ("destinationSets", some(&["a", "b"]).boxed()),
        ("notDestinationSets", some(&["b"]).boxed()),
        ("sourcePorts", some(PORTS).boxed()),
        ("ports", some(PORTS).boxed()),
        (
            "protocol",
            one(&["tcp", "udp", "6", "17", "icmp", "58", "89"]).boxed(),
        ),
        (
            "icmp",
            some(&[
                "{ type: 8 }",
                "{ code: 1, type: 3 }",
                "{ type: 3, code: 0 }",
            ])
            .boxed(),
        ),
        (
            "tcpFlags",
            one(&[
                "{ set: [syn] }",
                "{ clear: [ack, rst], set: [fin] }",
                "{ clear: [urg] }",
            ])
            .boxed(),
        ),
        ("dscp", some(&["ef", "10", "0", "af41", "3", "63"]).boxed()),
        ("ingress", some(&["p0", "p1"]).boxed()),
        (
            "vlans",
            some(&["untagged", "100", "'200-299'", "0", "4094"]).boxed(),
        ),
        (
            "fragment",
            one(&["whole", "fragment", "first", "later"]).boxed(),
        ),
    ])
}

fn rule() -> impl Strategy<Value = String> {
    let rest = fields(vec![
        ("match", matches().boxed()),
        (
            "expiresAt",
            one(&["2030-01-01T00:00:00Z", "2030-01-01T01:30:00+01:30"]).boxed(),
        ),
        (
            "redirect",
            one(&[
                "{ service: s }",
                "{ address: 10.0.0.9 }",
                "{ port: 80, address: 10.0.0.9 }",
                "{ port: p1 }",
            ])
            .boxed(),
        ),
        ("mark", one(&["ef", "46", "7"]).boxed()),
        (
            "mirror",
            one(&["{ port: p1 }", "{ packetsPerSecond: 5, port: p1 }"]).boxed(),
        ),
        ("rateLimit", one(&["l"]).boxed()),
        ("sourceNat", one(&["keep", "masquerade"]).boxed()),
    ]);
    let action = one(&["allow", "drop", "reject", "count", "punt", "redirect"]);
    (0..1000_u32, action, rest).prop_map(|(priority, action, rest)| {
        let rest = rest.trim_start_matches('{');
        let comma = if rest.trim() == "}" { "" } else { "," };
        format!("kind: Rule\nmetadata: {{ name: x }}\nspec: {{ action: {action}, priority: {priority}{comma}{rest}")
    })
}

fn others() -> impl Strategy<Value = String> {
    let limit = fields(vec![
        ("per", one(&["shared", "source", "service"]).boxed()),
        (
            "prefixLength",
            one(&["{}", "{ v4: 24 }", "{ v6: 48, v4: 32 }"]).boxed(),
        ),
        ("packets", one(&["1", "64k", "1000M"]).boxed()),
        ("bits", one(&["1", "100Mbit", "1T", "1500kbit"]).boxed()),
        ("burst", one(&["1", "64k", "5M"]).boxed()),
    ]);
    let mapping = fields(vec![
        (
            "sources",
            some(&["a", "s", "'collection:c'", "all"]).boxed(),
        ),
        (
            "destinations",
            some(&["s", "'collection:c'", "'collection:none'", "all"]).boxed(),
        ),
        ("protocols", some(&["tcp", "udp"]).boxed()),
        ("ports", some(&["80", "'50-200'"]).boxed()),
        (
            "approval",
            one(&[
                "{ state: approved, by: me }",
                "{ state: pending }",
                "{ at: 2020-01-01T00:00:00Z, state: rejected }",
            ])
            .boxed(),
        ),
        ("priority", one(&["0", "1000"]).boxed()),
        (
            "comment",
            one(&["'# not: [a] comment'", "\"two\\nlines\""]).boxed(),
        ),
    ]);
    let set = some(&[
        "10.0.0.0/8",
        "10.0.0.0/9",
        "'::1'",
        "192.0.2.1/32",
        "192.0.2.1",
        "'2001:DB8::/32'",
    ]);
    let document = |kind: &'static str| {
        move |spec: String| format!("kind: {kind}\nmetadata: {{ name: x }}\nspec: {spec}")
    };
    prop_oneof![
        limit.prop_map(document("RateLimit")),
        mapping.prop_map(document("Mapping")),
        set.prop_map(|prefixes| format!("{{ prefixes: {prefixes} }}"))
            .prop_map(document("AddressSet")),
    ]
}

/// What is accepted is stable. Returns whether it was.
fn check(document: &str) -> bool {
    let text = format!("{AROUND}apiVersion: marchproxy/v1\n{document}\n");
    let Some(plan) = plan(&text) else {
        return false;
    };
    let canonical: Vec<&str> = plan.state.documents().map(Document::canonical).collect();
    for text in &canonical {
        let again = Document::from_canonical(text).expect("what is canonical is read");
        assert_eq!(again.canonical(), *text);
    }
    let as_written = canonical.join("\n---\n");
    let again = self::plan(&as_written).expect("what is canonical is accepted");
    assert_eq!(again.state, plan.state);
    let sent = State::from_canonical(canonical.iter().copied()).expect("a node takes it");
    assert_eq!(sent.hash(), plan.state.hash());
    true
}

/// How many of the documents that this makes are accepted.
fn accepted(documents: &impl Strategy<Value = String>) -> u32 {
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        cases: 512,
        ..Config::default()
    });
    let count = std::cell::Cell::new(0);
    let run = runner.run(documents, |text| {
        count.set(count.get() + u32::from(check(&text)));
        Ok(())
    });
    run.unwrap();
    count.get()
}

#[test]
fn what_is_accepted_has_one_form() {
    let (rules, others) = (accepted(&rule()), accepted(&others()));
    assert!(
        rules > 20 && others > 100,
        "too few are accepted to say anything: {rules} and {others}"
    );
}
