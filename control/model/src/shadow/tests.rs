use super::*;
use crate::{Batch, Source};

fn documents(rules: &[(&str, u32, &str, &str)]) -> Documents {
    let text: Vec<String> = rules
        .iter()
        .map(|(name, priority, matches, action)| {
            format!(
                "apiVersion: marchproxy/v1\nkind: Rule\nmetadata: {{ name: {name} }}\n\
                 spec: {{ priority: {priority}, match: {matches}, action: {action} }}\n---\n"
            )
        })
        .collect();
    let batch = Batch::parse(&[Source {
        name: "a.yaml".to_owned(),
        text: text.concat(),
    }]);
    assert!(batch.errors.is_empty(), "{:#?}", batch.errors);
    batch
        .documents
        .into_iter()
        .map(|(key, (document, _))| (key, document))
        .collect()
}

fn found(rules: &[(&str, u32, &str, &str)]) -> Vec<String> {
    shadowed(&documents(rules))
        .into_iter()
        .map(|finding| finding.into_error().to_string())
        .collect()
}

/// Matches of which each pair says whether the first covers the second.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_rule_is_covered_in_every_field_or_not_at_all() {
    let cases = [
        ("{}", "{ sources: [10.0.0.0/8] }", true),
        ("{ sources: [10.0.0.0/8] }", "{}", false),
        (
            "{ sources: [10.0.0.0/8] }",
            "{ sources: [10.1.0.0/16, 10.2.0.1] }",
            true,
        ),
        (
            "{ sources: [10.0.0.0/8] }",
            "{ sources: [10.1.0.0/16, 11.2.0.1] }",
            false,
        ),
        ("{ sources: [0.0.0.0/0, '::/0'] }", "{}", true),
        ("{ sources: [0.0.0.0/0] }", "{}", false),
        (
            "{ sources: [0.0.0.0/0] }",
            "{ sources: ['2001:db8::/32'] }",
            false,
        ),
        (
            "{ destinations: [10.0.0.0/8] }",
            "{ destinations: [10.0.0.0/8], sources: [192.0.2.1] }",
            true,
        ),
        (
            "{ destinations: [10.0.0.0/9] }",
            "{ destinations: [10.0.0.0/8] }",
            false,
        ),
        ("{ sourceSets: [a, b] }", "{ sourceSets: [b] }", true),
        ("{ sourceSets: [a] }", "{ sourceSets: [a, b] }", false),
        ("{ sourceSets: [a] }", "{ sources: [10.0.0.1] }", false),
        (
            "{ sourceSets: [a], sources: [10.0.0.0/8] }",
            "{ sources: [10.0.0.1] }",
            true,
        ),
        ("{ notSourceSets: [a] }", "{ notSourceSets: [a, b] }", true),
        ("{ notSourceSets: [a] }", "{}", false),
        (
            "{ notDestinationSets: [a] }",
            "{ destinations: [10.0.0.1] }",
            false,
        ),
        ("{ protocol: tcp }", "{ protocol: tcp, ports: [80] }", true),
        ("{ protocol: tcp }", "{ protocol: udp, ports: [80] }", false),
        (
            "{ protocol: tcp, ports: [80, '8000-8010'] }",
            "{ protocol: tcp, ports: [80, 8005] }",
            true,
        ),
        (
            "{ protocol: tcp, ports: [80, '8000-8010'] }",
            "{ protocol: tcp, ports: [80, 8011] }",
            false,
        ),
        (
            "{ protocol: tcp, sourcePorts: ['1-1024'] }",
            "{ protocol: tcp }",
            false,
        ),
        (
            "{ icmp: [{ type: 3 }] }",
            "{ icmp: [{ type: 3, code: 4 }] }",
            true,
        ),
        (
            "{ icmp: [{ type: 3, code: 4 }] }",
            "{ icmp: [{ type: 3 }] }",
            false,
        ),
        (
            "{ tcpFlags: { set: [syn] } }",
            "{ tcpFlags: { set: [syn], clear: [ack] } }",
            true,
        ),
        (
            "{ tcpFlags: { set: [syn], clear: [ack] } }",
            "{ tcpFlags: { set: [syn] } }",
            false,
        ),
        (
            "{ tcpFlags: { clear: [syn] } }",
            "{ tcpFlags: { set: [syn] } }",
            false,
        ),
        ("{ dscp: [ef, 10] }", "{ dscp: [46] }", true),
        ("{ dscp: [46] }", "{}", false),
        ("{ ingress: [wan0] }", "{ ingress: [wan0] }", true),
        ("{ ingress: [wan0] }", "{ ingress: [lan0] }", false),
        ("{ vlans: ['100-200'] }", "{ vlans: [150] }", true),
        ("{ vlans: ['100-200'] }", "{ vlans: [untagged] }", false),
        ("{ fragment: fragment }", "{ fragment: later }", true),
        ("{ fragment: first }", "{ fragment: fragment }", false),
    ];
    for (first, second, covered) in cases {
        let found = found(&[("a", 1, first, "drop"), ("b", 2, second, "drop")]);
        assert_eq!(
            found.len(),
            usize::from(covered),
            "{first} before {second}: {found:#?}"
        );
    }
}

#[test]
fn the_one_before_is_named_with_what_it_does() {
    let found = found(&[
        ("b-last", 7, "{ sources: [10.1.0.0/16] }", "allow"),
        ("a-first", 7, "{ sources: [10.0.0.0/8] }", "drop"),
        ("c-other", 6, "{ sources: [192.0.2.0/24] }", "allow"),
    ]);
    assert_eq!(
        found,
        [
            "Rule/b-last: spec.match: never decides: Rule/a-first (priority 7) is looked at before, matches all of it and drops it"
        ]
    );
}

#[test]
fn a_rule_that_ends_first_hides_nothing_for_good() {
    let ends = |first: &str, second: &str| {
        let text = |name: &str, priority: u32, ends: &str| {
            format!(
                "apiVersion: marchproxy/v1\nkind: Rule\nmetadata: {{ name: {name} }}\nspec: {{ priority: {priority}, action: drop{ends} }}\n---\n"
            )
        };
        let batch = Batch::parse(&[Source {
            name: String::new(),
            text: text("a", 1, first) + &text("b", 2, second),
        }]);
        let keyed = batch.documents.into_iter();
        shadowed(&keyed.map(|(key, (document, _))| (key, document)).collect()).len()
    };
    let (soon, late) = (
        ", expiresAt: 2030-01-01T00:00:00Z",
        ", expiresAt: 2031-01-01T00:00:00Z",
    );
    assert_eq!(ends(soon, ""), 0);
    assert_eq!(ends(soon, late), 0);
    assert_eq!(ends(late, soon), 1);
    assert_eq!(ends("", soon), 1);
}

#[test]
fn what_is_not_named_is_counted() {
    let names: Vec<String> = (0..NAMED + 5)
        .map(|number| format!("r{number:03}"))
        .collect();
    let rules: Vec<_> = names
        .iter()
        .zip(0..)
        .map(|(name, priority)| (name.as_str(), priority, "{}", "drop"))
        .collect();
    let found = found(&rules);
    assert_eq!(found.len(), NAMED + 1);
    assert!(
        found[NAMED].ends_with("4 more rules never decide"),
        "{}",
        found[NAMED]
    );
}

#[test]
fn looking_ends_and_says_so() {
    // Every rule has the same addresses and overlapping ranges of ports that cover none of the others: nothing tells them apart.
    let names: Vec<String> = (0..9_000).map(|number| format!("r{number:04}")).collect();
    let matches: Vec<String> = (0..9_000)
        .map(|at| format!("{{ protocol: tcp, ports: ['{}-{}'] }}", at + 1, at + 20_000))
        .collect();
    let rules: Vec<_> = names
        .iter()
        .zip(&matches)
        .map(|(name, matches)| (name.as_str(), 1, matches.as_str(), "drop"))
        .collect();
    let found = found(&rules);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains("not all pairs were looked at"),
        "{}",
        found[0]
    );
}
