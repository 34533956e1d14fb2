//! What is accepted, what it means, its canonical form and its differences.

use march_model::{
    Affinity, Algorithm, Batch, ChangeKind, Document, Key, Mode, Others, Plan, Probe, Source, Spec,
    State, TierChoice, Timestamp,
};

const EXAMPLE: &str = r#"
apiVersion: marchproxy/v1
kind: Port
metadata: { name: lan0 }
spec: { node: node1, interface: eth1, tier: auto, nat: { addresses: [192.0.2.1], ports: 20000-32767 } }
---
apiVersion: marchproxy/v1
kind: Service
metadata: { name: web, labels: { team: edge } }
spec: { address: 192.0.2.10, port: 80, protocol: tcp, pool: web, mode: full_nat, affinity: five_tuple }
---
apiVersion: marchproxy/v1
kind: Pool
metadata: { name: web }
spec:
  algorithm: maglev
  backends:
    - { address: 10.0.1.12, port: 8080, weight: 1 }
    - { address: 10.0.1.11, port: 8080 }
  healthCheck: { type: http, path: /healthz, interval: 2s, timeout: 1s, rise: 2, fall: 3 }
---
apiVersion: marchproxy/v1
kind: Rule
metadata: { name: deny }
spec:
  priority: 100
  match: { sources: [198.51.100.0/24], destinations: [192.0.2.10/32], sourcePorts: ["1024-65535"], ports: [80], protocol: tcp }
  action: drop
---
"#;

fn source(text: &str) -> Source {
    Source {
        name: "a.yaml".to_owned(),
        text: text.to_owned(),
    }
}

fn plan(text: &str) -> Plan {
    State::default()
        .plan(
            Batch::parse(&[source(text)]),
            Others::Keep,
            Timestamp::EPOCH,
        )
        .unwrap()
}

#[test]
fn example_is_read_with_defaults() {
    let state = plan(EXAMPLE).state;
    let (_, port) = state.ports().next().unwrap();
    assert_eq!(
        (port.node.as_str(), port.interface.as_str()),
        ("node1", "eth1")
    );
    assert_eq!(port.tier, TierChoice::Auto);
    assert_eq!(
        (port.nat.ports.first(), port.nat.ports.last()),
        (20_000, 32_767)
    );
    let (metadata, service) = state.services().next().unwrap();
    assert_eq!(metadata.labels["team"], "edge");
    assert_eq!(metadata.cluster.as_str(), "default");
    assert_eq!((service.address.length(), service.port.first()), (32, 80));
    assert_eq!(
        (service.mode, service.affinity),
        (Mode::FullNat, Affinity::FiveTuple)
    );
    assert_eq!(service.timeouts.established.as_millis(), 3_600_000);
    let (_, pool) = state.pools().next().unwrap();
    assert_eq!(pool.algorithm, Algorithm::Maglev);
    assert_eq!(pool.backends[0].endpoint(), "10.0.1.11:8080");
    assert_eq!(pool.backends[0].weight, 1);
    let check = pool.health_check.as_ref().unwrap();
    assert_eq!(
        check.probe,
        Probe::Http {
            path: "/healthz".to_owned(),
            host: None
        }
    );
    assert_eq!(check.interval.as_millis(), 2_000);
    let (_, rule) = state.rules().next().unwrap();
    assert_eq!(rule.matches.source_ports[0].last(), 65_535);
    assert_eq!(rule.matches.protocol.unwrap().number(), 6);
    assert_eq!(state.len(), 4);
}

#[test]
fn canonical_form_is_stable() {
    let state = plan(EXAMPLE).state;
    let canonical: Vec<&str> = state.documents().map(Document::canonical).collect();
    assert_eq!(
        canonical,
        [
            r#"{"apiVersion":"marchproxy/v1","kind":"Port","metadata":{"cluster":"default","name":"lan0"},"spec":{"interface":"eth1","nat":{"addresses":["192.0.2.1"],"ports":"20000-32767"},"node":"node1","tier":"auto"}}"#,
            r#"{"apiVersion":"marchproxy/v1","kind":"Service","metadata":{"cluster":"default","labels":{"team":"edge"},"name":"web"},"spec":{"address":"192.0.2.10","affinity":"five_tuple","mode":"full_nat","pool":"web","port":80,"protocol":"tcp","timeouts":{"closing":"1m","established":"1h","icmp":"10s","syn":"30s","udp":"1m"}}}"#,
            r#"{"apiVersion":"marchproxy/v1","kind":"Pool","metadata":{"cluster":"default","name":"web"},"spec":{"algorithm":"maglev","backends":[{"address":"10.0.1.11","port":8080,"weight":1},{"address":"10.0.1.12","port":8080,"weight":1}],"healthCheck":{"fall":3,"interval":"2s","path":"/healthz","rise":2,"timeout":"1s","type":"http"}}}"#,
            r#"{"apiVersion":"marchproxy/v1","kind":"Rule","metadata":{"cluster":"default","name":"deny"},"spec":{"action":"drop","match":{"destinations":["192.0.2.10"],"ports":[80],"protocol":"tcp","sourcePorts":["1024-65535"],"sources":["198.51.100.0/24"]},"priority":100}}"#,
        ]
    );
}

#[test]
fn equal_content_has_an_equal_hash_however_it_is_written() {
    let state = plan(EXAMPLE).state;
    let canonical: Vec<&str> = state.documents().map(Document::canonical).collect();
    let as_list = format!("[\n\t{}\n]", canonical.join(",\n\t"));
    let reversed: Vec<&str> = canonical.iter().rev().copied().collect();
    let as_stream = reversed.join("\n---\n");
    let pretty = canonical
        .iter()
        .map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap())
        .map(|value| serde_json::to_string_pretty(&value).unwrap())
        .collect::<Vec<_>>()
        .join("\n---\n");
    for text in [as_list, as_stream, pretty] {
        let other = plan(&text).state;
        assert_eq!(other, state);
        assert_eq!(other.hash().to_string(), state.hash().to_string());
    }
    assert_eq!(
        State::from_canonical(canonical.iter().copied()).unwrap(),
        state
    );
    assert_ne!(State::default().hash(), state.hash());
}

#[test]
fn anchors_and_ipv6_and_ranges_are_read() {
    let text = r#"
apiVersion: marchproxy/v1
kind: Pool
metadata: { name: six }
spec:
  algorithm: round_robin
  backends: [ &one { address: "2001:db8:1::1", weight: 3 }, { address: "2001:db8:1::2", port: 53 } ]
  healthCheck: { type: tcp, port: 53, interval: 500ms }
---
apiVersion: marchproxy/v1
kind: Service
metadata: { name: six }
spec: { address: "2001:db8:2::/64", port: 5000-5010, protocol: udp, pool: six, mode: nat, affinity: source_ip, timeouts: { udp: 90s } }
---
apiVersion: marchproxy/v1
kind: Port
metadata: { name: p }
spec: { node: n, interface: ens1f0np0, tier: dpdk(net_af_packet) }
---
apiVersion: marchproxy/v1
kind: Rule
metadata: { name: transit }
spec: { priority: 5, match: { sources: &nets [10.0.0.0/8, "2001:db8::/32"], destinations: *nets, protocol: 89 }, action: allow }
"#;
    let state = plan(text).state;
    let (_, service) = state.services().next().unwrap();
    assert_eq!(service.address.to_string(), "2001:db8:2::/64");
    assert_eq!((service.port.first(), service.port.last()), (5000, 5010));
    assert_eq!(service.timeouts.udp.to_string(), "90s");
    let (_, pool) = state.pools().next().unwrap();
    assert_eq!(pool.backends[0].port, None);
    assert_eq!(pool.health_check.as_ref().unwrap().timeout.as_millis(), 250);
    assert_eq!(pool.backends[1].endpoint(), "[2001:db8:1::2]:53");
    let (_, port) = state.ports().next().unwrap();
    assert_eq!(port.tier, TierChoice::DpdkVirtual("net_af_packet".into()));
    let (_, rule) = state.rules().next().unwrap();
    assert_eq!(rule.matches.destinations, rule.matches.sources);
    assert_eq!(rule.matches.protocol.unwrap().number(), 89);
}

#[test]
fn differences_name_fields_and_ignore_order() {
    let before = plan(EXAMPLE).state;
    let text = EXAMPLE
        .replace("port: 8080, weight: 1", "port: 8080, weight: 7")
        .replace(
            "address: 10.0.1.11, port: 8080",
            "address: 10.0.1.13, port: 8080",
        )
        .replace("name: deny", "name: refuse")
        .replace("sources: [198.51.100.0/24]", "sources: [203.0.113.0/24]");
    let batch = Batch::parse(&[source(&text)]);
    let plan = before
        .plan(batch, Others::Delete, Timestamp::EPOCH)
        .unwrap();
    let shown: Vec<String> = plan
        .changes
        .iter()
        .flat_map(|change| match &change.what {
            ChangeKind::Added => vec![format!("+ {}", change.key)],
            ChangeKind::Removed => vec![format!("- {}", change.key)],
            ChangeKind::Changed(fields) => fields
                .iter()
                .map(|f| format!("{} {}: {:?} -> {:?}", change.key, f.path, f.before, f.after))
                .collect(),
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#"Pool/web spec.backends[10.0.1.11:8080]: Some("{\"address\":\"10.0.1.11\",\"port\":8080,\"weight\":1}") -> None"#,
            r#"Pool/web spec.backends[10.0.1.12:8080].weight: Some("1") -> Some("7")"#,
            r#"Pool/web spec.backends[10.0.1.13:8080]: None -> Some("{\"address\":\"10.0.1.13\",\"port\":8080,\"weight\":1}")"#,
            "- Rule/deny",
            "+ Rule/refuse",
        ]
    );
    let key = |kind, name| Key::parse(kind, name).unwrap();
    assert!(plan.state.get(&key("Rule", "deny")).is_none());

    // A node that holds `before` reaches the same set by a delta.
    let upserts = plan
        .changes
        .iter()
        .filter_map(|change| plan.state.get(&change.key));
    let deletes = [key("Rule", "deny")];
    let reached = before
        .apply_delta(upserts.map(Document::canonical), deletes)
        .unwrap();
    assert_eq!(reached.hash(), plan.state.hash());
}

#[test]
fn removal_names_what_is_missing_and_refuses_what_is_used() {
    let state = plan(EXAMPLE).state;
    let key = |kind, name| Key::parse(kind, name).unwrap();
    let missing = state
        .plan_removal(&[key("Rule", "nope"), key("Rule", "deny")])
        .unwrap_err();
    assert_eq!(missing, [key("Rule", "nope")]);
    let invalid = state
        .plan_removal(&[key("Pool", "web")])
        .unwrap()
        .unwrap_err();
    assert_eq!(
        invalid.0[0].to_string(),
        "Service/web: spec.pool: there is no pool `web`"
    );
    let plan = state.plan_removal(&[key("Rule", "deny")]).unwrap().unwrap();
    assert_eq!(plan.state.len(), 3);
    assert!(
        plan.state
            .documents()
            .all(|document| !matches!(document.spec(), Spec::Rule(_)))
    );
}
