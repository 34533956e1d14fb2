//! Rules, sets, limits, mappings and guards: what they mean, and what is refused with which words.

use march_model::{
    AddressSet, Batch, Document, Endpoint, Key, Others, Placed, Plan, Plane, Source, SourceNat,
    Spec, State, Timestamp, execution_place,
};

const BASE: &str = r"
kind: Port
metadata: { name: wan0 }
spec: { node: n1, interface: eth0, nat: { addresses: [192.0.2.99] } }
---
kind: Port
metadata: { name: span0 }
spec: { node: n1, interface: eth1 }
---
kind: AddressSet
metadata: { name: office, labels: { collection: people } }
spec: { prefixes: [198.51.100.0/24] }
---
kind: AddressSet
metadata: { name: scanners }
spec: { prefixes: ['2001:db8:bad::/48'] }
---
kind: RateLimit
metadata: { name: per-client }
spec: { per: source, packets: 10000 }
---
kind: RateLimit
metadata: { name: shared }
spec: { bits: 1Gbit }
---
kind: Pool
metadata: { name: web }
spec: { backends: [{ address: 10.0.1.11, port: 8080 }] }
---
kind: Service
metadata: { name: web, labels: { collection: shop } }
spec: { address: 203.0.113.10, port: 80-90, protocol: tcp, pool: web }
---
kind: Service
metadata: { name: dns }
spec: { address: 203.0.113.11, port: 53, protocol: udp, pool: web }
---
";

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn batch(text: &str) -> Batch {
    Batch::parse(&[Source {
        name: "a.yaml".to_owned(),
        text: text.replace("kind:", "apiVersion: marchproxy/v1\nkind:"),
    }])
}

fn plan(text: &str) -> Plan {
    let plan = State::default().plan(batch(&format!("{BASE}{text}")), Others::Keep, now());
    plan.unwrap_or_else(|invalid| panic!("{text}: {:#?}", invalid.0))
}

fn errors(text: &str) -> Vec<String> {
    match State::default().plan(batch(&format!("{BASE}{text}")), Others::Keep, now()) {
        Ok(_) => Vec::new(),
        Err(invalid) => invalid.0.iter().map(ToString::to_string).collect(),
    }
}

fn warnings(text: &str) -> Vec<String> {
    plan(text)
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("kind: {kind}\nmetadata: {{ name: {name} }}\nspec: {spec}\n---\n")
}

fn rule(spec: &str) -> String {
    document("Rule", "r", &format!("{{ priority: 5, {spec} }}"))
}

fn canonical(text: &str, kind: &str, name: &str) -> String {
    let key = Key::parse(kind, name).unwrap();
    let state = plan(text).state;
    let document = state.get(&key).unwrap().canonical().to_owned();
    // What is canonical is read again as it is.
    assert_eq!(
        Document::from_canonical(&document).unwrap().canonical(),
        document
    );
    let (_, spec) = document.split_once("\"spec\":").unwrap();
    spec[..spec.len() - 1].to_owned()
}

#[test]
fn a_rule_with_every_field_has_a_canonical_form() {
    let spec = r#"expiresAt: "2026-12-01T02:00:00+02:00", match: { sources: [10.0.0.0/8], sourceSets: [scanners, office],
        notSourceSets: [], destinations: [], destinationSets: [office], notDestinationSets: [scanners],
        sourcePorts: ["1024-65535"], ports: ["8000-8010", 80], protocol: 6, tcpFlags: { set: [ack, syn], clear: [rst] },
        dscp: [10, ef, 3], ingress: [wan0], vlans: ["200-299", 100, untagged], fragment: whole },
      action: redirect, redirect: { address: 10.0.0.9, port: 8080 }, mark: 46, mirror: { port: span0 },
      rateLimit: shared, sourceNat: keep"#;
    let match_part = concat!(
        r#"{"destinationSets":["office"],"dscp":[3,"af11","ef"],"fragment":"whole","ingress":["wan0"],"#,
        r#""notDestinationSets":["scanners"],"ports":[80,"8000-8010"],"protocol":"tcp","sourcePorts":["1024-65535"],"#,
        r#""sourceSets":["office","scanners"],"sources":["10.0.0.0/8"],"tcpFlags":{"clear":["rst"],"set":["syn","ack"]},"#,
        r#""vlans":["untagged",100,"200-299"]}"#
    );
    let expected = format!(
        "{}{match_part}{}",
        r#"{"action":"redirect","expiresAt":"2026-12-01T00:00:00Z","mark":"ef","match":"#,
        r#","mirror":{"packetsPerSecond":10000,"port":"span0"},"priority":5,"rateLimit":"shared","redirect":{"address":"10.0.0.9","port":8080}}"#
    );
    assert_eq!(canonical(&rule(spec), "Rule", "r"), expected);
    let icmp = "match: { icmp: [{ type: 8, code: 0 }, { type: 3 }] }, action: allow, sourceNat: masquerade";
    assert_eq!(
        canonical(&rule(icmp), "Rule", "r"),
        r#"{"action":"allow","match":{"icmp":[{"type":3},{"code":0,"type":8}]},"priority":5,"sourceNat":"masquerade"}"#
    );
    for (redirect, form) in [
        (
            "match: { protocol: tcp }, action: redirect, redirect: { service: web }",
            r#""redirect":{"service":"web"}"#,
        ),
        (
            "action: redirect, redirect: { port: span0 }",
            r#""redirect":{"port":"span0"}"#,
        ),
        (
            "action: redirect, redirect: { address: 10.0.0.9 }",
            r#""redirect":{"address":"10.0.0.9"}"#,
        ),
    ] {
        let written = canonical(&rule(redirect), "Rule", "r");
        assert!(written.contains(form), "{written}");
    }
}

#[test]
fn the_other_kinds_have_a_canonical_form() {
    let of = |kind: &str, spec: &str| canonical(&document(kind, "x", spec), kind, "x");
    assert_eq!(
        of(
            "AddressSet",
            "{ prefixes: [192.0.2.128/25, 192.0.2.0/24, 10.0.0.1, 10.0.0.1] }"
        ),
        r#"{"prefixes":["10.0.0.1","192.0.2.0/24","192.0.2.128/25"]}"#
    );
    let hash = "ab".repeat(32);
    assert_eq!(
        of(
            "AddressSet",
            &format!("{{ content: {{ hash: {hash}, prefixes: 1000000 }} }}")
        ),
        format!(r#"{{"content":{{"hash":"{hash}","prefixes":1000000}}}}"#)
    );
    assert_eq!(
        of("RateLimit", "{ per: source, packets: 64k }"),
        r#"{"burst":64000,"packets":64000,"per":"source","prefixLength":{"v4":32,"v6":64}}"#
    );
    assert_eq!(
        of(
            "RateLimit",
            "{ per: source, prefixLength: { v4: 24 }, bits: 1500000, burst: 64kB }"
        ),
        r#"{"bits":"1500kbit","burst":64000,"per":"source","prefixLength":{"v4":24,"v6":64}}"#
    );
    assert_eq!(
        of("RateLimit", "{ per: service, bits: 1gbit }"),
        r#"{"bits":"1Gbit","burst":125000000,"per":"service"}"#
    );
    assert_eq!(
        of(
            "Mapping",
            "{ sources: [office, 'collection:people'], destinations: [all], protocols: [udp, tcp], ports: ['80-443', 53],
               approval: { state: approved, by: alice, at: 2026-05-01T10:00:00Z }, priority: 7, comment: 'as asked' }"
        ),
        r#"{"approval":{"at":"2026-05-01T10:00:00Z","by":"alice","state":"approved"},"comment":"as asked","destinations":["all"],"ports":[53,"80-443"],"priority":7,"protocols":["tcp","udp"],"sources":["collection:people","office"]}"#
    );
    assert_eq!(
        of("Mapping", "{ sources: [all], destinations: [web] }"),
        r#"{"approval":{"state":"pending"},"destinations":["web"],"priority":1000,"sources":["all"]}"#
    );
    assert_eq!(
        of(
            "Port",
            "{ node: n1, interface: eth7, default: { services: deny }, guard: { block: [scanners], allow: [office], perSource: per-client } }"
        ),
        r#"{"default":{"services":"deny","transit":"deny"},"guard":{"allow":["office"],"block":["scanners"],"perSource":"per-client"},"interface":"eth7","nat":{"addresses":[],"ports":"20000-32767"},"node":"n1","tier":"auto"}"#
    );
    let limited = of(
        "Service",
        "{ address: 203.0.113.12, port: 80, protocol: tcp, pool: web, limits: { newConnectionsPerSecond: 1000 } }",
    );
    assert!(
        limited.contains(r#""limits":{"newConnectionsPerSecond":1000}"#),
        "{limited}"
    );
}

/// What has no new field has the hash that it always had.
#[test]
fn defaults_leave_no_trace() {
    let port =
        "{ node: n1, interface: eth7, default: { services: allow, transit: deny }, guard: {} }";
    let written = canonical(&document("Port", "x", port), "Port", "x");
    assert!(
        !written.contains("default") && !written.contains("guard"),
        "{written}"
    );
    let service = "{ address: 203.0.113.12, port: 80, protocol: tcp, pool: web, limits: {} }";
    assert!(!canonical(&document("Service", "x", service), "Service", "x").contains("limits"));
    assert_eq!(
        canonical(&rule("action: drop, sourceNat: keep"), "Rule", "r"),
        r#"{"action":"drop","match":{},"priority":5}"#
    );
}

/// One broken thing of a rule and words that its error must have.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn each_error_of_a_rule_names_its_field() {
    let cases = [
        (
            "match: { sourceSets: [offise] }, action: drop",
            "spec.match.sourceSets: there is no address set `offise` (did you mean `office`?)",
        ),
        (
            "match: { notSourceSets: [x] }, action: drop",
            "spec.match.notSourceSets: there is no address set `x`",
        ),
        (
            "match: { destinationSets: [x] }, action: drop",
            "spec.match.destinationSets: there is no address set `x`",
        ),
        (
            "match: { notDestinationSets: [x] }, action: drop",
            "spec.match.notDestinationSets: there is no address set `x`",
        ),
        (
            "match: { ingress: [wan1] }, action: drop",
            "spec.match.ingress: there is no port `wan1` (did you mean `wan0`?)",
        ),
        (
            "action: allow, rateLimit: per-clients",
            "spec.rateLimit: there is no rate limit `per-clients` (did you mean `per-client`?)",
        ),
        (
            "action: allow, mirror: { port: spam0 }",
            "spec.mirror.port: there is no port `spam0` (did you mean `span0`?)",
        ),
        (
            "action: redirect, redirect: { service: wbe }",
            "spec.redirect.service: there is no service `wbe` (did you mean `web`?)",
        ),
        (
            "action: redirect, redirect: { port: spam0 }",
            "spec.redirect.port: there is no port `spam0`",
        ),
        (
            "match: { sourceSets: [office], notSourceSets: [office] }, action: drop",
            "spec.match.notSourceSets: the set office cannot be both wanted and not wanted",
        ),
        (
            "match: { ports: [80] }, action: drop",
            "spec.match.ports: ports need `protocol: tcp`",
        ),
        (
            "match: { protocol: gre, ports: [80] }, action: drop",
            "protocol gre has no ports",
        ),
        (
            "match: { protocol: tcp, ports: ['90-80'] }, action: drop",
            "spec.match.ports[0]: `90-80` runs backwards; write 80-90",
        ),
        (
            "match: { protocol: tcp, icmp: [{ type: 8 }] }, action: drop",
            "spec.match.icmp: protocol tcp has no ICMP messages",
        ),
        (
            "match: { icmp: [{ type: 256 }] }, action: drop",
            "spec.match.icmp[0].type: `256` is not a whole number from 0 to 255",
        ),
        (
            "match: { icmp: [{ code: 0 }] }, action: drop",
            "spec.match.icmp[0].type: the field `type` is missing",
        ),
        (
            "match: { protocol: udp, tcpFlags: { set: [syn] } }, action: drop",
            "spec.match.tcpFlags: protocol udp has no TCP flags",
        ),
        (
            "match: { icmp: [{ type: 8 }], tcpFlags: { set: [syn] } }, action: drop",
            "spec.match.tcpFlags: no packet has TCP flags and is an ICMP message",
        ),
        (
            "match: { tcpFlags: { set: [syn], clear: [syn] } }, action: drop",
            "spec.match.tcpFlags: the flag syn cannot be both set and clear",
        ),
        (
            "match: { tcpFlags: { set: [sin] } }, action: drop",
            "spec.match.tcpFlags.set[0]: `sin` is not a TCP flag (did you mean `fin`?); write fin, syn",
        ),
        (
            "match: { tcpFlags: {} }, action: drop",
            "spec.match.tcpFlags: name at least one flag",
        ),
        (
            "match: { dscp: [64] }, action: drop",
            "spec.match.dscp[0]: DSCP 64 is above 63",
        ),
        (
            "match: { dscp: [af44] }, action: drop",
            "spec.match.dscp[0]: `af44` is not a DSCP",
        ),
        (
            "match: { dscp: [ef, 46] }, action: drop",
            "spec.match.dscp[1]: the DSCP ef is given twice",
        ),
        (
            "match: { vlans: [4095] }, action: drop",
            "spec.match.vlans[0]: VLAN 4095 is above 4094",
        ),
        (
            "match: { vlans: ['20-10'] }, action: drop",
            "spec.match.vlans[0]: `20-10` runs backwards; write 10-20",
        ),
        (
            "match: { vlans: [untaged] }, action: drop",
            "`untaged` is not a VLAN (did you mean `untagged`?)",
        ),
        (
            "match: { fragment: frist }, action: drop",
            "spec.match.fragment: `frist` is not a word for fragments (did you mean `first`?)",
        ),
        (
            "match: { protocol: tcp, ports: [80], fragment: later }, action: drop",
            "spec.match.ports: a later fragment has no L4 header",
        ),
        (
            "match: { sources: ['2001:db8::/32'], protocol: icmp }, action: drop",
            "spec.match: the addresses are of a family that the protocol is not",
        ),
        (
            "match: { sourcesets: [office] }, action: drop",
            "there is no field `sourcesets` here (did you mean `sourceSets`?)",
        ),
        (
            "action: redirect",
            "spec.redirect: action redirect needs `redirect`",
        ),
        (
            "action: allow, redirect: { service: web }",
            "spec.redirect: action allow sends nothing elsewhere",
        ),
        (
            "action: redirect, redirect: {}",
            "spec.redirect: write one of {service: NAME}",
        ),
        (
            "action: redirect, redirect: { service: web, address: 10.0.0.9 }",
            "spec.redirect: write one of {service: NAME}",
        ),
        (
            "match: { protocol: udp }, action: redirect, redirect: { service: web }",
            "spec.redirect.service: Service/web is tcp, and the rule matches udp only",
        ),
        (
            "action: redirect, redirect: { address: 10.0.0.9, port: 80 }",
            "spec.redirect.port: a port needs `protocol: tcp`",
        ),
        (
            "match: { destinations: ['2001:db8::/32'] }, action: redirect, redirect: { address: 10.0.0.9 }",
            "spec.redirect.address: 10.0.0.9 is IPv4, and the rule matches none of that",
        ),
        (
            "action: redirect, redirect: { address: 203.0.113.10 }",
            "spec.redirect.address: 203.0.113.10 is the address of Service/web: the packet would come back here",
        ),
        (
            "action: redirect, redirect: { address: 192.0.2.99 }",
            "spec.redirect.address: 192.0.2.99 is a NAT address of Port/wan0",
        ),
        (
            "match: { ingress: [wan0] }, action: redirect, redirect: { port: wan0 }",
            "spec.redirect.port: packets that come in by wan0 would leave by wan0",
        ),
        (
            "match: { ingress: [wan0] }, action: allow, mirror: { port: wan0 }",
            "spec.mirror.port: copies would leave by wan0, where the packets come in",
        ),
        (
            "action: allow, mirror: { port: span0, packetsPerSecond: 0 }",
            "spec.mirror.packetsPerSecond: `0` is not a whole number from 1 to 10000000",
        ),
        (
            "action: drop, mark: ef",
            "spec.mark: action drop lets nothing through",
        ),
        (
            "action: reject, rateLimit: shared",
            "spec.rateLimit: action reject lets nothing through",
        ),
        (
            "action: punt, sourceNat: masquerade",
            "spec.sourceNat: action punt lets nothing through",
        ),
        (
            "match: { destinations: [203.0.113.10] }, action: allow, sourceNat: masquerade",
            "spec.sourceNat: only transit is masqueraded, and 203.0.113.10 is the address of Service/web",
        ),
        (
            "match: { protocol: tcp }, action: redirect, redirect: { service: web }, sourceNat: masquerade",
            "spec.sourceNat: only transit is masqueraded",
        ),
        (
            "action: drop, expiresAt: 2026-05-31T23:59:59Z",
            "spec.expiresAt: expired on arrival: it ended at 2026-05-31T23:59:59Z, and it is 2026-06-01T00:00:00Z",
        ),
        (
            "action: drop, expiresAt: tomorrow",
            "spec.expiresAt: `tomorrow` is not a moment",
        ),
        (
            "action: drop, priority: 1000001",
            "the field `priority` is given twice",
        ),
    ];
    for (spec, words) in cases {
        let found = errors(&rule(spec));
        let has = |error: &String| error.contains(words) && error.starts_with("a.yaml:");
        assert!(found.iter().any(has), "{spec}: {words:?} not in {found:#?}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn each_error_of_the_other_kinds_names_its_field() {
    let hash = "0".repeat(64);
    let sets: String = (0..5)
        .map(|number| {
            let content = format!("{{ content: {{ hash: {hash}, prefixes: 1900000 }} }}");
            document("AddressSet", &format!("big{number}"), &content)
        })
        .collect();
    let inline = vec!["10.0.0.1"; 4_097].join(", ");
    let port = |spec: &str| {
        document(
            "Port",
            "x",
            &format!("{{ node: n1, interface: eth9, {spec} }}"),
        )
    };
    let limit = |spec: &str| document("RateLimit", "x", spec);
    let mapping = |spec: &str| document("Mapping", "x", spec);
    let cases = [
        (
            document("AddressSet", "x", "{}"),
            "spec.prefixes: the field `prefixes` is missing",
        ),
        (
            document(
                "AddressSet",
                "x",
                &format!("{{ prefixes: [], content: {{ hash: {hash}, prefixes: 1 }} }}"),
            ),
            "spec.content: a set has `prefixes` here or `content` beside",
        ),
        (
            document(
                "AddressSet",
                "x",
                &format!("{{ content: {{ hash: {hash}, prefixes: 5000000 }} }}"),
            ),
            "spec.content.prefixes: 5000000 prefixes; a set may have 2000000",
        ),
        (
            document("AddressSet", "x", "{ content: { hash: abc, prefixes: 1 } }"),
            "spec.content.hash: `abc` is not 64 hex digits",
        ),
        (
            document("AddressSet", "x", &format!("{{ prefixes: [{inline}] }}")),
            "4097 prefixes; a document may hold 4096, larger sets are loaded beside it with `marchctl set load`",
        ),
        (
            document("AddressSet", "x", "{ prefixes: [10.0.0.1/8] }"),
            "spec.prefixes[0]: `10.0.0.1/8` has host bits set",
        ),
        (
            sets,
            "all sets together have 9500002 prefixes, at most 8000000 fit",
        ),
        (
            limit("{ packets: 0 }"),
            "spec.packets: `0`: nothing would ever pass",
        ),
        (
            limit("{ packets: -5 }"),
            "spec.packets: `-5` is not a whole number",
        ),
        (
            limit("{ packets: 99999999999999999999999 }"),
            "spec.packets: `99999999999999999999999` is above 1000000000",
        ),
        (
            limit("{ packets: 2G }"),
            "spec.packets: `2G` is above 1000000000",
        ),
        (
            limit("{ bits: 100Mbyte }"),
            "spec.bits: `100Mbyte` is not a whole number, with k, M, G or T behind it if wanted, such as 100Mbit",
        ),
        (
            limit("{ bits: 1.5Gbit }"),
            "spec.bits: `1.5Gbit` is not a whole number",
        ),
        (
            limit("{ bits: 18446744073709551615Tbit }"),
            "is above 1000000000000",
        ),
        (
            limit("{ packets: 5, burst: 0 }"),
            "spec.burst: `0`: nothing would ever pass",
        ),
        (
            limit("{ per: sauce, packets: 5 }"),
            "spec.per: `sauce` is not who shares a limit (did you mean `source`?); write shared, source or service",
        ),
        (
            limit("{ per: source, prefixLength: { v4: 33 }, packets: 5 }"),
            "spec.prefixLength.v4: `33` is not a whole number from 1 to 32",
        ),
        (
            limit("{ prefixLength: { v4: 24 }, packets: 5 }"),
            "spec.prefixLength: only a limit with `per: source` has prefix lengths",
        ),
        (
            limit("{ per: source }"),
            "spec.packets: the rate is missing",
        ),
        (
            limit("{ packets: 5, bits: 5 }"),
            "spec.bits: a limit counts packets or bits, not both",
        ),
        (
            mapping("{ sources: [offise], destinations: [web] }"),
            "spec.sources: there is no address set or service `offise` (did you mean `office`?)",
        ),
        (
            mapping("{ sources: [all], destinations: [wbe] }"),
            "spec.destinations: there is no service `wbe` (did you mean `web`?)",
        ),
        (
            mapping("{ sources: [all], destinations: [office] }"),
            "spec.destinations: `office` is an AddressSet; a mapping leads to services",
        ),
        (
            mapping("{ sources: [], destinations: [web] }"),
            "spec.sources: the list is empty",
        ),
        (
            mapping("{ sources: [all, office], destinations: [web] }"),
            "spec.sources: `all` leaves nothing for the other names to add",
        ),
        (
            mapping("{ sources: ['colection:x'], destinations: [web] }"),
            "`colection:x` is neither a name nor `collection:NAME` nor `all`",
        ),
        (
            mapping("{ sources: ['collection:'], destinations: [web] }"),
            "`collection:` lacks the name",
        ),
        (
            mapping("{ sources: [all], destinations: [web], protocols: [udp] }"),
            "leave nothing of Service/web, tcp port 80-90",
        ),
        (
            mapping("{ sources: [all], destinations: [web], ports: [443] }"),
            "leave nothing of Service/web",
        ),
        (
            mapping("{ sources: [all], destinations: [web], approval: { state: aproved } }"),
            "`aproved` is not a state of approval (did you mean `approved`?)",
        ),
        (
            mapping(
                "{ sources: [all], destinations: [web], approval: { state: approved }, expiresAt: 2020-01-01T00:00:00Z }",
            ),
            "spec.expiresAt: expired on arrival",
        ),
        (
            document("AddressSet", "web", "{ prefixes: [] }")
                + &mapping("{ sources: [web], destinations: [dns] }"),
            "`web` is an AddressSet and a Service",
        ),
        (
            port("default: { services: denied }"),
            "spec.default.services: `denied` is not a default; write allow or deny",
        ),
        (
            port("guard: { block: [nobody] }"),
            "spec.guard.block: there is no address set `nobody`",
        ),
        (
            port("guard: { allow: [nobody] }"),
            "spec.guard.allow: there is no address set `nobody`",
        ),
        (
            port("guard: { block: [office], allow: [office] }"),
            "the set office cannot be both blocked and allowed",
        ),
        (
            port("guard: { perSource: nothing }"),
            "spec.guard.perSource: there is no rate limit `nothing`",
        ),
        (
            port("guard: { perSource: shared }"),
            "spec.guard.perSource: RateLimit/shared is `per: shared`; a guard needs one with `per: source`",
        ),
        (
            document(
                "Service",
                "x",
                "{ address: 203.0.113.12, port: 80, protocol: tcp, pool: web, limits: { halfOpen: 0 } }",
            ),
            "spec.limits.halfOpen: `0` is not a whole number from 1 to 100000000",
        ),
        (
            document(
                "Service",
                "x",
                "{ address: 203.0.113.12, port: 80, protocol: tcp, pool: web, limits: { newConnectionsPerSecond: -1 } }",
            ),
            "spec.limits.newConnectionsPerSecond: `-1` is not",
        ),
    ];
    for (text, words) in cases {
        let found = errors(&text);
        let shown = &text[..text.len().min(200)];
        assert!(
            found.iter().any(|error| error.contains(words)),
            "{shown}: {words:?} not in {found:#?}"
        );
    }
}

#[test]
fn a_packet_leaves_by_a_port_of_the_node_where_it_came_in() {
    let far = document("Port", "far0", "{ node: n2, interface: eth0 }");
    let found = errors(&(far.clone() + &rule("action: redirect, redirect: { port: span0 }")));
    assert!(
        found[0].contains(
            "spec.redirect.port: Port/span0 is of node n1, and there are other nodes; name in"
        ),
        "{found:?}"
    );
    let found = errors(
        &(far.clone()
            + &rule("match: { ingress: [far0] }, action: allow, mirror: { port: span0 }")),
    );
    assert!(
        found[0].contains("spec.mirror.port: Port/span0 is of node n1, and Port/far0"),
        "{found:?}"
    );
    let fine = rule("match: { ingress: [wan0] }, action: redirect, redirect: { port: span0 }");
    assert!(errors(&(far + &fine)).is_empty());
}

#[test]
fn fifty_errors_in_one_file_are_fifty_errors() {
    let text: String = (0..50)
        .map(|number| {
            let spec =
                format!("{{ priority: 1, match: {{ sourceSets: [gone{number}] }}, action: drop }}");
            document("Rule", &format!("r{number}"), &spec)
        })
        .collect();
    let found = errors(&text);
    assert_eq!(found.len(), 50);
    for (number, error) in found.iter().enumerate() {
        assert!(error.starts_with("a.yaml:"), "{error}");
        let line: usize = error.split(':').nth(1).unwrap().parse().unwrap();
        // Each document has five lines once its version is in it.
        assert_eq!(line % 5, errors_line(&found[0]) % 5, "{number}: {error}");
    }
}

fn errors_line(error: &str) -> usize {
    error.split(':').nth(1).unwrap().parse().unwrap()
}

#[test]
fn what_was_there_before_may_end_and_be_applied_again() {
    let ends = rule("action: drop, expiresAt: 2026-06-01T00:00:01Z");
    let before = plan(&ends).state;
    let later: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
    let again = before.plan(batch(&ends), Others::Keep, later).unwrap();
    assert!(again.changes.is_empty());
    let changed = ends.replace("priority: 5", "priority: 6");
    let refused = before
        .plan(batch(&changed), Others::Keep, later)
        .unwrap_err();
    assert!(
        refused.0[0].message.starts_with("expired on arrival"),
        "{refused}"
    );
    // A mapping that is over anyway may say when it ended.
    let over = "{ sources: [all], destinations: [web], approval: { state: expired }, expiresAt: 2020-01-01T00:00:00Z }";
    assert!(errors(&document("Mapping", "x", over)).is_empty());
}

#[test]
fn warnings_say_what_is_probably_not_meant() {
    let found = warnings(&document(
        "AddressSet",
        "x",
        "{ prefixes: [10.0.0.0/8, 192.0.2.1, 10.1.0.0/16, 192.0.2.1] }",
    ));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].contains("AddressSet/x: spec.prefixes[2]: 10.1.0.0/16 is in 10.0.0.0/8 already"),
        "{found:#?}"
    );
    assert!(
        found[1].contains("spec.prefixes[3]: 192.0.2.1 is given twice"),
        "{found:#?}"
    );
    assert!(found.iter().all(|warning| warning.starts_with("a.yaml:")));
    let small = warnings(&document("RateLimit", "x", "{ bits: 8kbit }"));
    assert!(
        small[0].contains("spec.burst: a burst of 1000 bytes is less than one full frame"),
        "{small:#?}"
    );
    let any = warnings(&rule("action: redirect, redirect: { service: web }"));
    assert!(
        any[0].contains(
            "Service/web is tcp; what else the rule matches is dropped as unsupported_protocol"
        ),
        "{any:#?}"
    );
    let empty = warnings(&document(
        "Mapping",
        "x",
        "{ sources: ['collection:nobody'], destinations: ['collection:none'] }",
    ));
    assert_eq!(empty.len(), 2, "{empty:#?}");
    let twice = warnings(
        &(rule("action: drop") + &document("Rule", "s", "{ priority: 9, action: allow }")),
    );
    assert!(
        twice[0].contains("Rule/s: spec.match: never decides: Rule/r (priority 5)"),
        "{twice:#?}"
    );
    let hidden = "{ sources: [office], destinations: [web, dns], approval: { state: approved } }";
    let mapped = warnings(
        &(rule("match: { protocol: udp }, action: drop") + &document("Mapping", "x", hidden)),
    );
    assert!(
        mapped[0].contains("Mapping/x: spec.match: its part udp:53 never decides"),
        "{mapped:#?}"
    );
}

#[test]
fn mappings_stand_for_rules_only_while_they_may() {
    let text = document(
        "Mapping",
        "m",
        "{ sources: ['collection:people', dns], destinations: ['collection:shop'], approval: { state: approved }, expiresAt: 2026-07-01T00:00:00Z }",
    );
    let state = plan(&text).state;
    let effective = state.effective_rules(now());
    assert_eq!(
        effective.next_end,
        Some("2026-07-01T00:00:00Z".parse().unwrap())
    );
    assert_eq!(effective.rules.len(), 1);
    let rule = &effective.rules[0];
    assert_eq!(rule.name, "m/tcp:80-90");
    assert_eq!(rule.metadata.name.as_str(), "m");
    assert_eq!(rule.rule.matches.source_sets[0].as_str(), "office");
    assert_eq!(rule.rule.matches.sources[0].to_string(), "10.0.1.11");
    assert_eq!(rule.rule.source_nat, SourceNat::Keep);
    let over = state.effective_rules(effective.next_end.unwrap());
    assert!(over.rules.is_empty() && over.next_end.is_none());
    let (_, mapping) = state.mappings().next().unwrap();
    assert_eq!(mapping.destinations, [Endpoint::Collection("shop".into())]);
}

#[test]
fn too_much_mapping_is_refused() {
    // Every mapping names every service: more rules than fit.
    let services: String = (0..800)
        .map(|number| {
            let spec = format!(
                "{{ address: 203.0.113.{}, port: {}, protocol: tcp, pool: web }}",
                100 + number % 50,
                1000 + number
            );
            document("Service", &format!("s{number}"), &spec)
        })
        .collect();
    let mappings: String = (0..200)
        .map(|number| {
            let spec = "{ sources: [all], destinations: [all], approval: { state: approved } }";
            document("Mapping", &format!("m{number}"), spec)
        })
        .collect();
    let found = errors(&(services + &mappings));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("rules; at most 131072 fit"), "{found:#?}");
}

#[test]
fn lists_that_every_part_of_a_mapping_would_repeat_are_refused() {
    let services: String = (0..2_100)
        .map(|number| {
            let spec = format!(
                "{{ address: 203.0.113.100, port: {}, protocol: tcp, pool: web }}",
                1000 + number
            );
            document("Service", &format!("s{number}"), &spec)
        })
        .collect();
    // One part for each service, each with all the sets.
    let sets: String = (0..2_100)
        .map(|number| {
            let set = document("AddressSet", &format!("x{number}"), "{ prefixes: [] }");
            set.replacen(" }", ", labels: { collection: all-sets } }", 1)
        })
        .collect();
    let wide =
        "{ sources: ['collection:all-sets'], destinations: [all], approval: { state: approved } }";
    let found = errors(&format!(
        "{services}{sets}{}",
        document("Mapping", "m", wide)
    ));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("name more than 4000000"), "{found:#?}");
    // Every port range of the mapping is looked at for each service.
    let ranges: Vec<String> = (1..2_100).map(|port| port.to_string()).collect();
    let ports = format!(
        "{{ sources: [all], destinations: [all], ports: [{}], approval: {{ state: approved }} }}",
        ranges.join(", ")
    );
    let found = errors(&format!("{services}{}", document("Mapping", "m", &ports)));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("name more than 4000000"), "{found:#?}");
}

#[test]
fn warnings_do_not_flood() {
    let mut prefixes = vec!["10.0.0.0/8".to_owned()];
    prefixes.extend((0..4_000).map(|n| format!("10.0.{}.{}", n / 256, n % 256)));
    let set = |name: &str| {
        document(
            "AddressSet",
            name,
            &format!("{{ prefixes: [{}] }}", prefixes.join(", ")),
        )
    };
    let one = warnings(&set("x"));
    assert_eq!(one.len(), 21, "{one:#?}");
    let last = "3980 more prefixes are given twice or are in others";
    assert!(one.iter().any(|warning| warning.contains(last)), "{one:#?}");
    let many: String = (0..30).map(|number| set(&format!("x{number}"))).collect();
    let many = warnings(&many);
    assert_eq!(many.len(), 501);
    assert!(
        many[500].ends_with("and 130 more warnings"),
        "{}",
        many[500]
    );
}

#[test]
fn where_it_runs_is_said_with_the_reason() {
    let place = |spec: &str| {
        let state = plan(&rule(spec)).state;
        let (_, rule) = state.rules().next().unwrap();
        execution_place(Placed::Rule(rule))
    };
    let plain = place("match: { sources: [10.0.0.0/8] }, action: drop");
    assert_eq!(plain.places, [Plane::FastPath, Plane::SocketTier]);
    assert_eq!(
        (plain.words().as_str(), plain.reason.as_str()),
        ("fast path, socket tier", "every tier can drop")
    );
    let marked = place("match: { dscp: [ef] }, action: allow, mark: cs0");
    assert_eq!(marked.places, [Plane::FastPath]);
    let paths: Vec<&str> = marked.beyond_sockets.iter().map(|need| need.path).collect();
    assert_eq!(paths, ["spec.mark", "spec.match.dscp"]);
    assert!(
        marked
            .reason
            .contains("mark DSCP: a socket sees connections, not packets"),
        "{}",
        marked.reason
    );
    let state = plan("").state;
    let (_, service) = state.services().next().unwrap();
    assert_eq!(
        execution_place(Placed::Service(service)).reason,
        "every tier can forward at L4"
    );
}

#[test]
fn overlapping_services_are_told_without_end() {
    let services: String = (0..400)
        .map(|number| {
            document(
                "Service",
                &format!("s{number}"),
                "{ address: 203.0.113.50, port: 1-65535, protocol: tcp, pool: web }",
            )
        })
        .collect();
    let found = errors(&services);
    assert_eq!(found.len(), 201, "{}", found.len());
    assert!(
        found
            .iter()
            .any(|error| error.contains("more services overlap than these 200"))
    );
}

#[test]
fn kinds_are_known_by_the_words_that_people_type() {
    use march_model::Kind;
    for (word, kind) in [
        ("addressset", Kind::AddressSet),
        ("AddressSets", Kind::AddressSet),
        ("address-sets", Kind::AddressSet),
        ("sets", Kind::AddressSet),
        ("ratelimits", Kind::RateLimit),
        ("rate-limit", Kind::RateLimit),
        ("limit", Kind::RateLimit),
        ("mapping", Kind::Mapping),
        ("Mappings", Kind::Mapping),
        ("rules", Kind::Rule),
    ] {
        assert_eq!(Kind::from_word(word), Some(kind), "{word}");
    }
    assert_eq!(Kind::from_word("mapped"), None);
    let state = plan("").state;
    let inline = state.address_sets().next().unwrap().1;
    assert!(matches!(inline, AddressSet::Prefixes(prefixes) if prefixes.len() == 1));
    assert!(
        state
            .documents()
            .any(|document| matches!(document.spec(), Spec::RateLimit(_)))
    );
}

/// The YAML blocks of a page of the documentation, with the line that some leave out.
fn examples(page: &str) -> Vec<String> {
    let blocks = page.split("```yaml\n").skip(1);
    let texts = blocks.filter_map(|rest| rest.split("```").next());
    let with_version = |text: &str| {
        let documents = text.split("---\n").map(|document| {
            if document.contains("apiVersion:") {
                document.to_owned()
            } else {
                format!("apiVersion: marchproxy/v1\n{document}")
            }
        });
        documents.collect::<Vec<_>>().join("---\n")
    };
    texts.map(with_version).collect()
}

#[test]
fn the_examples_of_the_documentation_are_accepted() {
    let planned = |state: &State, text: &str| {
        let source = Source {
            name: "example".to_owned(),
            text: text.to_owned(),
        };
        state
            .plan(Batch::parse(&[source]), Others::Keep, now())
            .unwrap_or_else(|invalid| panic!("{text}: {:#?}", invalid.0))
            .state
    };
    let all = examples(include_str!("../../../docs/documents.md"));
    assert!(all.len() >= 7, "every kind has one");
    let around = document("AddressSet", "scanners", "{ prefixes: [] }")
        .replace("kind:", "apiVersion: marchproxy/v1\nkind:");
    let state = planned(&State::default(), &(all.join("---\n") + "---\n" + &around));
    let pages = examples(include_str!("../../../docs/runbook/rules.md"));
    assert!(!pages.is_empty());
    for text in pages {
        planned(&state, &text);
    }
}
