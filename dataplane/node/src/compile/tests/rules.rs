//! Rules, mappings, sets, limits and guards, compiled.

use march_tables::{
    Action, Criteria, Guard, IcmpMessage, Limit, LimitScope, LimitUnit, Mirror, PortRange,
    PrefixSet, Redirect, Rule, RuleList, ServiceLimits, SourceNat, Stance, TcpFlags, Treatment,
    Unmatched, Vlan, Wholeness,
};

use super::*;

const BASE: &str = r"
kind: Port
metadata: { name: wan0 }
spec: { node: node1, interface: eth1 }
---
kind: Port
metadata: { name: span0 }
spec: { node: node1, interface: eth2 }
---
kind: Port
metadata: { name: far0 }
spec: { node: node2, interface: eth1 }
---
kind: AddressSet
metadata: { name: office, labels: { collection: people } }
spec: { prefixes: [192.0.2.0/24] }
---
kind: AddressSet
metadata: { name: bad }
spec: { prefixes: [198.51.100.0/24] }
---
kind: RateLimit
metadata: { name: per-client }
spec: { per: source, prefixLength: { v4: 24, v6: 56 }, bits: 100Mbit, burst: 64k }
---
kind: RateLimit
metadata: { name: some }
spec: { packets: 64k }
---
kind: Pool
metadata: { name: web }
spec: { backends: [{ address: 10.0.1.11, port: 8080 }] }
---
kind: Service
metadata: { name: web, labels: { collection: shop } }
spec: { address: 203.0.113.10, port: 80-90, protocol: tcp, pool: web, limits: { newConnectionsPerSecond: 1000, halfOpen: 500 } }
---
kind: Service
metadata: { name: dns, labels: { collection: shop } }
spec: { address: 203.0.113.11, port: 53, protocol: udp, pool: web }
---
";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a moment")
}

/// The set of these documents, without their first lines.
fn set(text: &str) -> State {
    let text = text.replace("kind:", "apiVersion: marchproxy/v1\nkind:");
    let batch = march_model::Batch::parse(&[march_model::Source {
        name: "test.yaml".into(),
        text,
    }]);
    let plan = State::default().plan(batch, march_model::Others::Keep, Timestamp::EPOCH);
    plan.expect("the documents are valid").state
}

struct World {
    ids: Ids,
    ports: Vec<FastPort>,
    plane: Plane,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        let span = FastPort {
            name: "span0".into(),
            interface: "eth2".into(),
            ..ports().remove(0)
        };
        Self {
            ids: Ids::new(Limits::default()),
            ports: ports().into_iter().chain([span]).collect(),
            plane: Plane::FastPath,
            now: at("2026-06-01T00:00:00Z"),
        }
    }

    fn compile(&mut self, state: &State) -> Result<Compiled, Vec<FieldError>> {
        let sets: Vec<AddressSet> = state
            .address_sets()
            .map(|(metadata, _)| AddressSet {
                name: metadata.name.as_str().into(),
                content: [7; 32],
                prefixes: Arc::new(PrefixSet::default()),
            })
            .collect();
        let inputs = Inputs {
            revision: 1,
            state,
            sets: &sets,
            ports: &self.ports,
            kernel: &kernel(),
            unhealthy: &BTreeSet::new(),
            admin: &AdminStates::default(),
            node: "node1",
            plane: self.plane,
            now: self.now,
        };
        compile(&inputs, &mut self.ids)
    }

    fn rules(&mut self, documents: &str) -> RuleList {
        let compiled = self.compile(&set(&format!("{BASE}{documents}")));
        compiled.expect("compiles").config.rules
    }
}

fn rule(name: &str, spec: &str) -> String {
    format!("kind: Rule\nmetadata: {{ name: {name} }}\nspec: {{ priority: 5, {spec} }}\n---\n")
}

fn only(rules: &RuleList) -> Rule {
    assert_eq!(rules.len(), 1);
    rules[0].clone()
}

#[test]
fn every_field_of_a_rule_reaches_the_tables() {
    let spec = r"match: { sources: [10.0.0.0/8], sourceSets: [office], notSourceSets: [bad],
        destinations: [10.9.0.0/16], destinationSets: [bad], notDestinationSets: [office],
        sourcePorts: ['1024-65535'], ports: [80, '8000-8010'], protocol: tcp,
        tcpFlags: { set: [syn], clear: [ack] }, dscp: [ef, 10], ingress: [wan0],
        vlans: [untagged, 100, '200-299'], fragment: first },
      action: redirect, redirect: { address: 10.0.0.9, port: 8080 }, mark: af41,
      mirror: { port: span0, packetsPerSecond: 77 }, rateLimit: per-client, sourceNat: masquerade";
    let mut world = World::new();
    let compiled = only(&world.rules(&rule("all-of-it", spec)));
    let id = |name: &str| world.ids.sets.of(name).expect("an id");
    let limit = world.ids.limits.of("per-client").expect("an id");
    let range = |first, last| PortRange { first, last };
    let prefix = |text: &str| text.parse().expect("a prefix");
    let expected = Rule {
        name: "all-of-it".into(),
        priority: 5,
        mapping: None,
        sources: vec![prefix("10.0.0.0/8")],
        destinations: vec![prefix("10.9.0.0/16")],
        source_ports: vec![range(1024, 65_535)],
        ports: vec![range(80, 80), range(8000, 8010)],
        protocol: Some(6),
        criteria: Criteria {
            source_sets: vec![id("office")],
            destination_sets: vec![id("bad")],
            not_source_sets: vec![id("bad")],
            not_destination_sets: vec![id("office")],
            icmp: Vec::new(),
            tcp_flags: Some(TcpFlags {
                mask: 0x12,
                value: 0x02,
            }),
            dscp: 1 << 46 | 1 << 10,
            ingress: vec![0],
            vlans: vec![Vlan::Untagged, Vlan::Ids(100, 100), Vlan::Ids(200, 299)],
            fragment: Some(Wholeness::First),
        },
        action: Action::Redirect(Redirect::Address {
            address: ip("10.0.0.9"),
            port: 8080,
        }),
        treatment: Treatment {
            mark: Some(34),
            mirror: Some(Mirror {
                port: 1,
                per_second: 77,
            }),
            limit: Some(limit),
            source_nat: SourceNat::Masquerade,
        },
    };
    assert_eq!(compiled, expected);
}

#[test]
fn every_action_and_the_rarer_words() {
    let mut world = World::new();
    let mut action = |spec: &str| only(&world.rules(&rule("r", spec))).action;
    assert_eq!(action("action: allow"), Action::Allow);
    assert_eq!(action("action: drop"), Action::Drop);
    assert_eq!(action("action: reject"), Action::Reject);
    assert_eq!(action("action: count"), Action::Count);
    assert_eq!(action("action: punt"), Action::Punt);
    let to_port = "match: { ingress: [wan0] }, action: redirect, redirect: { port: span0 }";
    assert_eq!(action(to_port), Action::Redirect(Redirect::Port(1)));
    let to_service = "match: { protocol: tcp }, action: redirect, redirect: { service: web }";
    let found = action(to_service);
    let web = world.ids.services.of("web").expect("an id");
    assert_eq!(found, Action::Redirect(Redirect::Service(web)));
    let icmp = only(&world.rules(&rule(
        "r",
        "match: { icmp: [{ type: 8, code: 0 }, { type: 3 }], fragment: whole }, action: drop",
    )));
    let message = |kind, code| IcmpMessage { kind, code };
    assert_eq!(icmp.criteria.icmp, [message(3, None), message(8, Some(0))]);
    assert_eq!(icmp.criteria.fragment, Some(Wholeness::Whole));
}

#[test]
fn a_rule_concerns_the_node_that_has_its_ports() {
    let mut world = World::new();
    let far = rule("far", "match: { ingress: [far0] }, action: drop");
    assert!(
        world.rules(&far).is_empty(),
        "left out, not made a rule for every port"
    );
    let both = rule("both", "match: { ingress: [far0, wan0] }, action: drop");
    assert_eq!(only(&world.rules(&both)).criteria.ingress, [0]);
}

#[test]
fn what_cannot_be_sent_is_not_let_through_unchanged() {
    let mut world = World::new();
    world.ports.truncate(1);
    let spec = "match: { ingress: [wan0] }, action: redirect, redirect: { port: span0 }";
    assert_eq!(
        only(&world.rules(&rule("r", spec))).action,
        Action::Drop,
        "span0 is not driven"
    );
}

#[test]
fn approved_mappings_are_rules_that_name_them() {
    let mapping = |name: &str, spec: &str| {
        format!("kind: Mapping\nmetadata: {{ name: {name} }}\nspec: {{ {spec} }}\n---\n")
    };
    let approved = "approval: { state: approved }";
    let mut world = World::new();
    let named = |rules: &RuleList| -> BTreeMap<String, Rule> {
        let live = rules.iter().filter(|rule| !rule.is_vacant());
        live.map(|rule| (rule.name.to_string(), Rule::clone(rule)))
            .collect()
    };
    let rules = named(&world.rules(&mapping(
        "m",
        &format!("sources: ['collection:people', dns], destinations: [all], {approved}"),
    )));
    assert_eq!(
        rules.keys().collect::<Vec<_>>(),
        ["m/tcp:80-90", "m/udp:53"]
    );
    let web = &rules["m/tcp:80-90"];
    assert_eq!(web.mapping.as_deref(), Some("m"));
    assert_eq!((web.action, web.priority), (Action::Allow, 1000));
    let texts = |prefixes: &[IpPrefix]| -> Vec<String> {
        prefixes.iter().map(ToString::to_string).collect()
    };
    assert_eq!(texts(&web.sources), ["10.0.1.11/32"], "the backends of dns");
    let office = world.ids.sets.of("office").expect("an id");
    assert_eq!(web.criteria.source_sets, [office]);
    assert_eq!(texts(&web.destinations), ["203.0.113.10/32"]);

    let clipped = "sources: [all], destinations: ['collection:shop'], protocols: [tcp], ports: ['85-95', 99], priority: 3";
    let rules = named(&world.rules(&mapping("m", &format!("{clipped}, {approved}"))));
    assert_eq!(rules.keys().collect::<Vec<_>>(), ["m/tcp:85-90"]);
    assert!(rules["m/tcp:85-90"].sources.is_empty());

    for state in ["pending", "rejected", "expired"] {
        let spec = format!("sources: [all], destinations: [all], approval: {{ state: {state} }}");
        assert!(
            named(&world.rules(&mapping("m", &spec))).is_empty(),
            "{state}"
        );
    }
    let nobody = format!("sources: ['collection:nobody'], destinations: [all], {approved}");
    assert!(
        named(&world.rules(&mapping("m", &nobody))).is_empty(),
        "nobody is not everybody"
    );
}

#[test]
fn what_ends_is_left_out_and_said_before() {
    let mut world = World::new();
    let state = set(&format!(
        "{BASE}{}{}kind: Mapping\nmetadata: {{ name: m }}\nspec: {{ sources: [all], destinations: [web], \
         approval: {{ state: approved }}, expiresAt: 2026-07-01T00:00:00Z }}\n---\n",
        rule("late", "action: drop, expiresAt: 2026-08-01T00:00:00Z"),
        rule("never", "action: count"),
    ));
    let mut names_at = |now: &str| {
        world.now = at(now);
        let compiled = world.compile(&state).expect("compiles");
        let live = compiled
            .config
            .rules
            .iter()
            .filter(|rule| !rule.is_vacant());
        let mut names: Vec<String> = live.map(|rule| rule.name.to_string()).collect();
        names.sort();
        (names.join(" "), compiled.next_end)
    };
    let (m, late) = (at("2026-07-01T00:00:00Z"), at("2026-08-01T00:00:00Z"));
    let all = "late m/tcp:80-90 never".to_owned();
    assert_eq!(names_at("2026-06-01T00:00:00Z"), (all.clone(), Some(m)));
    assert_eq!(names_at("2026-06-30T23:59:59Z"), (all.clone(), Some(m)));
    assert_eq!(
        names_at("2026-07-01T00:00:00Z"),
        ("late never".into(), Some(late))
    );
    assert_eq!(names_at("2026-08-01T00:00:00Z"), ("never".into(), None));
    assert_eq!(
        names_at("2026-06-01T00:00:00Z"),
        (all, Some(m)),
        "a clock that was set back"
    );
}

#[test]
fn what_has_not_changed_stays_the_same_object() {
    let mut world = World::new();
    let text = |priority: u32| {
        let many: String = (0..600)
            .map(|number| rule(&format!("r{number}"), "action: drop"))
            .collect();
        let changed = rule("r300", &format!("action: count, priority: {priority}"));
        let old = rule("r300", "action: drop");
        many.replace(&old, &changed.replace("priority: 5, ", ""))
    };
    let first = world.rules(&text(7));
    assert_eq!(first.len(), 600);
    let second = world.rules(&text(8));
    let differing: Vec<&str> = first
        .iter()
        .zip(second.iter())
        .filter(|(a, b)| !Arc::ptr_eq(a, b))
        .map(|(a, _)| &*a.name)
        .collect();
    assert_eq!(differing, ["r300"]);
}

#[test]
fn numbers_stay_while_names_do() {
    let mut world = World::new();
    let two = rule("a", "action: drop, rateLimit: ~") + &rule("b", "action: count");
    let two = two.replace(", rateLimit: ~", "");
    let before = world.rules(&two);
    let b = world.ids.rules.of("b").expect("an id");
    let after = world.rules(&rule("b", "action: count"));
    assert_eq!(world.ids.rules.of("b"), Some(b));
    assert_eq!(
        before.get(b).map(|rule| &rule.name),
        after.get(b).map(|rule| &rule.name)
    );
    // A refused set in between moves numbers; rules that were compiled before are not served again for others.
    let sets = |names: &[&str]| {
        let documents = names.iter().map(|name| {
            format!(
                "kind: AddressSet\nmetadata: {{ name: {name} }}\nspec: {{ prefixes: [] }}\n---\n"
            )
        });
        documents.collect::<String>()
            + &rule(
                "r",
                &format!("match: {{ sourceSets: [{}] }}, action: drop", names[0]),
            )
    };
    for names in [["x", "y"], ["y", "z"], ["x", "y"]] {
        let rules = world.rules(&sets(&names));
        world.ids.sets.release(|_| true);
        let id = world.ids.sets.of(names[0]).expect("an id");
        let live = rules.iter().find(|rule| &*rule.name == "r").expect("there");
        assert_eq!(live.criteria.source_sets, [id]);
    }
}

#[test]
fn limits_guards_and_defaults_reach_the_tables() {
    let mut world = World::new();
    let text = BASE.replace(
        "spec: { node: node1, interface: eth1 }",
        "spec: { node: node1, interface: eth1, default: { services: deny, transit: allow }, \
         guard: { block: [bad], allow: [office], perSource: per-client } }",
    );
    let config = world.compile(&set(&text)).expect("compiles").config;
    let limit = |name: &str| {
        let id = world.ids.limits.of(name).expect("an id");
        config.limits[usize::from(id)].clone()
    };
    let expected = Limit {
        name: "per-client".into(),
        scope: LimitScope::Source { v4: 24, v6: 56 },
        unit: LimitUnit::Bits,
        per_second: 100_000_000,
        burst: 512_000,
    };
    assert_eq!(limit("per-client"), expected);
    let some = limit("some");
    assert_eq!(
        (some.unit, some.per_second, some.burst),
        (LimitUnit::Packets, 64_000, 64_000)
    );
    assert_eq!(some.scope, LimitScope::Shared);
    let id = |name: &str| world.ids.sets.of(name).expect("an id");
    let wan0 = &config.ports[0];
    assert_eq!(
        wan0.guard,
        Guard {
            block: vec![id("bad")],
            allow: vec![id("office")],
            per_source: world.ids.limits.of("per-client"),
        }
    );
    let stances = Unmatched {
        services: Stance::Deny,
        transit: Stance::Allow,
    };
    assert_eq!(wan0.unmatched, stances);
    assert_eq!(config.ports[1].unmatched, Unmatched::default());
    assert_eq!(config.ports[1].guard, Guard::default());
    let web = config
        .services
        .iter()
        .find(|service| &*service.name == "web");
    let bounds = ServiceLimits {
        new_per_second: 1000,
        half_open: 500,
    };
    assert_eq!(web.map(|service| service.limits), Some(bounds));
    march_tables::build(&config, None).expect("builds");
}

#[test]
fn sockets_refuse_what_they_cannot_do_and_name_the_field() {
    let mut world = World::new();
    world.plane = Plane::SocketTier;
    world.ports.clear();
    let plain = BASE.replace(
        ", limits: { newConnectionsPerSecond: 1000, halfOpen: 500 }",
        "",
    );
    let mut errors = |documents: &str| -> Vec<String> {
        let state = set(&format!("{plain}{documents}"));
        let refused = world.compile(&state).err().unwrap_or_default();
        refused.iter().map(ToString::to_string).collect()
    };
    assert!(errors("").is_empty());
    let fine = "match: { sources: [10.0.0.0/8], sourceSets: [office], protocol: tcp, ports: [80] }";
    for action in ["allow", "drop", "count"] {
        let found = errors(&rule("r", &format!("{fine}, action: {action}")));
        assert!(found.is_empty(), "{found:?}");
    }
    for (spec, field) in [
        (
            "match: { icmp: [{ type: 8 }] }, action: drop",
            "spec.match.icmp",
        ),
        (
            "match: { tcpFlags: { set: [syn] } }, action: drop",
            "spec.match.tcpFlags",
        ),
        ("match: { dscp: [ef] }, action: drop", "spec.match.dscp"),
        ("match: { vlans: [7] }, action: drop", "spec.match.vlans"),
        (
            "match: { fragment: fragment }, action: drop",
            "spec.match.fragment",
        ),
        (
            "match: { ingress: [wan0] }, action: drop",
            "spec.match.ingress",
        ),
        (
            "match: { protocol: esp }, action: drop",
            "spec.match.protocol",
        ),
        ("action: reject", "spec.action"),
        ("action: punt", "spec.action"),
        ("action: allow, mark: ef", "spec.mark"),
        (
            "match: { ingress: [wan0] }, action: allow, mirror: { port: span0 }",
            "spec.mirror",
        ),
        ("action: allow, rateLimit: some", "spec.rateLimit"),
        ("action: allow, sourceNat: masquerade", "spec.sourceNat"),
        (
            "match: { destinations: [10.9.0.0/16] }, action: allow",
            "spec.match.destinations",
        ),
        (
            "action: redirect, redirect: { address: 10.0.0.9 }",
            "spec.redirect.address",
        ),
    ] {
        let found = errors(&rule("r", spec));
        let named = format!("Rule/r: {field}: ");
        assert!(
            found.iter().any(|error| error.starts_with(&named)),
            "{spec}: {found:?}"
        );
    }
    let elsewhere = rule("r", "match: { ingress: [far0], dscp: [ef] }, action: drop");
    assert!(errors(&elsewhere).is_empty(), "of another node");

    let limited = world
        .compile(&set(BASE))
        .expect_err("a service with limits");
    assert_eq!(limited.len(), 2);
    assert!(
        limited[0]
            .to_string()
            .starts_with("Service/web: spec.limits.newConnectionsPerSecond: ")
    );
    let guarded = plain.replace(
        "interface: eth1 }",
        "interface: eth1, guard: { block: [bad] } }",
    );
    let refused = world.compile(&set(&guarded)).expect_err("a guard");
    assert_eq!(refused.len(), 1, "the port of the other node is not ours");
    assert!(
        refused[0]
            .to_string()
            .starts_with("Port/wan0: spec.guard: ")
    );
}
