//! What is refused: every error at once, with file, line, column, field path and a way out.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use march_model::{
    Batch, Document, FieldError, Invalid, Others, Plan, Source, State, Timestamp, read_sources,
};

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn try_plan(text: &str) -> Result<Plan, Invalid> {
    let source = Source {
        name: "a.yaml".to_owned(),
        text: text.to_owned(),
    };
    State::default().plan(Batch::parse(&[source]), Others::Keep, now())
}

fn errors(text: &str) -> Vec<String> {
    let invalid = try_plan(text).expect_err("must be refused");
    invalid.0.iter().map(FieldError::to_string).collect()
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: marchproxy/v1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec: {spec}\n---\n"
    )
}

fn pool(name: &str, backend: &str) -> String {
    document(
        "Pool",
        name,
        &format!("{{ backends: [{{ address: \"{backend}\", port: 80 }}] }}"),
    )
}

fn service(name: &str, address: &str, port: &str, pool: &str) -> String {
    let spec = format!("{{ address: \"{address}\", port: {port}, protocol: tcp, pool: {pool} }}");
    document("Service", name, &spec)
}

#[test]
fn every_error_comes_at_once_with_its_place() {
    let text = r"apiVersion: marchproxy/v1
kind: Pool
metadata: { name: web, lables: {} }
spec:
  algoritm: maglev
  backends:
    - { address: 10.0.0.1, port: 0 }
    - { address: 10.0.0.300, port: 80 }
    - { adress: 10.0.0.2, port: 70000, weight: 0 }
  healthCheck: { type: http, interval: 1s, timeout: 1s, path: healthz, rise: 0 }
---
apiVersion: marchproxy/v2
kind: Servce
metadata: { name: Web }
spec: {}
---
apiVersion: marchproxy/v1
kind: Rule
metadata: { name: r }
spec:
  priority: -1
  match: { sources: [10.0.0.1/8], ports: [80], sourcePorts: [9-2] }
  action: deny
  action: drop
";
    assert_eq!(
        errors(text),
        [
            "a.yaml:3:24: Pool/web: metadata.lables: there is no field `lables` here (did you mean `labels`?); the fields are name, cluster, labels",
            "a.yaml:5:3: Pool/web: spec.algoritm: there is no field `algoritm` here (did you mean `algorithm`?); the fields are algorithm, backends, healthCheck",
            "a.yaml:7:34: Pool/web: spec.backends[0].port: port 0 cannot be used on the wire; ports are 1 to 65535",
            "a.yaml:8:18: Pool/web: spec.backends[1].address: `10.0.0.300` is not an IPv4 or IPv6 address",
            "a.yaml:9:7: Pool/web: spec.backends[2].address: the field `address` is missing",
            "a.yaml:9:9: Pool/web: spec.backends[2].adress: there is no field `adress` here (did you mean `address`?); the fields are address, port, weight",
            "a.yaml:9:33: Pool/web: spec.backends[2].port: port 70000 is above 65535",
            "a.yaml:9:48: Pool/web: spec.backends[2].weight: `0` is not a whole number from 1 to 1000",
            "a.yaml:10:53: Pool/web: spec.healthCheck.timeout: timeout 1s must be shorter than interval 1s",
            "a.yaml:10:63: Pool/web: spec.healthCheck.path: a path starts with `/` and has up to 1024 printable characters without spaces",
            "a.yaml:10:78: Pool/web: spec.healthCheck.rise: `0` is not a whole number from 1 to 255",
            "a.yaml:12:13: apiVersion: `marchproxy/v2` is not marchproxy/v1",
            "a.yaml:13:7: kind: `Servce` is not a kind (did you mean `Service`?); the kinds are Port, Service, Pool, Rule, AddressSet, RateLimit, Mapping",
            "a.yaml:14:19: metadata.name: `Web` is not a name: 1 to 63 characters of a-z, 0-9 and `-`, with a letter or digit at both ends",
            "a.yaml:21:13: Rule/r: spec.priority: `-1` is not a whole number from 0 to 1000000",
            "a.yaml:22:22: Rule/r: spec.match.sources[0]: `10.0.0.1/8` has host bits set; write 10.0.0.0/8 for the network or 10.0.0.1 for the one address",
            "a.yaml:22:62: Rule/r: spec.match.sourcePorts[0]: `9-2` runs backwards; write 2-9",
            "a.yaml:23:11: Rule/r: spec.action: `deny` is not an action; write allow, drop, reject, count, punt or redirect",
            "a.yaml:24:3: the field `action` is given twice",
        ]
    );
}

/// One broken thing and words that its error must have.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn each_semantic_error_names_the_thing() {
    let web = || pool("web", "10.0.0.1") + &service("web", "192.0.2.10", "80", "web");
    let port = |name: &str, spec: &str| document("Port", name, &format!("{{ node: n1, {spec} }}"));
    let rule = |matches: &str| {
        document(
            "Rule",
            "r",
            &format!("{{ priority: 1, match: {matches}, action: drop }}"),
        )
    };
    let cases = [
        (
            web() + &service("api", "192.0.2.10", "80", "web"),
            "Service/web: spec.address: tcp 192.0.2.10 port 80 is used twice, by Service/api and by Service/web",
        ),
        (
            web() + &service("api", "192.0.2.10", "70-90", "web"),
            "port 80 is used twice, by Service/api and by Service/web",
        ),
        (
            web() + &service("net", "192.0.2.0/24", "80", "web"),
            "tcp 192.0.2.10 port 80 is used twice, by Service/net and by Service/web",
        ),
        (
            service("web", "192.0.2.10", "0", "web") + &pool("web", "10.0.0.1"),
            "spec.port: port 0",
        ),
        (
            document("Pool", "web", "{ backends: [] }"),
            "spec.backends: the pool is empty",
        ),
        (
            document("Pool", "web", "{ backends: }"),
            "spec.backends: must be a list, not nothing",
        ),
        (
            pool("web", "192.0.2.10") + &service("web", "192.0.2.10", "80", "web"),
            "spec.backends[0].address: backend 192.0.2.10:80 is the address of Service/web",
        ),
        (
            pool("web", "10.0.0.1") + &service("web", "192.0.2.10", "80", "wbe"),
            "spec.pool: there is no pool `wbe` (did you mean `web`?)",
        ),
        (
            pool("web", "2001:db8::1") + &service("web", "192.0.2.10", "80", "web"),
            "spec.pool: the service's address is IPv4, but Pool/web has backend [2001:db8::1]:80 (IPv6)",
        ),
        (
            pool("web", "www.example.com"),
            "a backend is given by address, not by name",
        ),
        (pool("web", "127.0.0.1"), "is a loopback address"),
        (
            pool("web", "::ffff:10.0.0.1"),
            "is an IPv4-mapped address; write 10.0.0.1",
        ),
        (
            pool("web", "10.0.0.1") + &service("web", "192.0.2.10/24", "80", "web"),
            "host bits set; write 192.0.2.0/24",
        ),
        (
            pool("web", "10.0.0.1") + &service("web", "224.0.0.1", "80", "web"),
            "is a multicast address",
        ),
        (
            document(
                "Pool",
                "web",
                "{ backends: [{ address: 10.0.0.1 }, { address: 10.0.0.1 }] }",
            ),
            "spec.backends[1]: backend 10.0.0.1 is in the pool already, at spec.backends[0]",
        ),
        (
            document(
                "Pool",
                "web",
                "{ backends: [{ address: 10.0.0.1 }], healthCheck: { type: tcp } }",
            ),
            "spec.healthCheck: backend 10.0.0.1 has no port of its own",
        ),
        (
            document(
                "Pool",
                "web",
                "{ backends: [{ address: 10.0.0.1 }], healthCheck: { type: tcp, path: / } }",
            ),
            "spec.healthCheck.path: there is no field `path`",
        ),
        (
            document(
                "Pool",
                "web",
                "{ backends: [{ address: 10.0.0.1, port: 1 }], healthCheck: { type: tcp, interval: 5 } }",
            ),
            "`5` is not a duration",
        ),
        (
            port("a", "interface: eth0") + &port("b", "interface: eth0"),
            "interface eth0 of node n1 is used twice, by Port/a and by Port/b",
        ),
        (
            port("a", "interface: eth0, tier: dpdk") + &port("b", "interface: eth1, tier: af_xdp"),
            "the ports of node n1 run one",
        ),
        (
            port("a", "interface: eth0, tier: xdpp"),
            "`xdpp` is not a tier",
        ),
        (port("a", "interface: a/b"), "not an interface name"),
        (
            port("a", "interface: eth0, nat: { addresses: [192.0.2.1] }")
                + &port("b", "interface: eth1, nat: { addresses: [192.0.2.1] }"),
            "is used by Port/a too",
        ),
        (
            web()
                + &port(
                    "a",
                    "interface: eth0, nat: { addresses: [192.0.2.10], ports: 1-100 }",
                ),
            "overlaps Service/web, ports 80",
        ),
        (
            web() + &port("a", "interface: eth0, nat: { addresses: [10.0.0.1] }"),
            "is a backend of Pool/web",
        ),
        (
            rule("{ ports: [80] }"),
            "spec.match.ports: ports need `protocol: tcp`",
        ),
        (
            rule("{ protocol: icmp, ports: [80] }"),
            "protocol icmp has no ports",
        ),
        (
            rule("{ sources: [10.0.0.0/8], destinations: ['2001:db8::/32'] }"),
            "of different families",
        ),
        (
            rule("{ sources: [10.0.0.0/8, 10.0.0.0/8] }"),
            "spec.match.sources[1]: the prefix 10.0.0.0/8 is given twice",
        ),
        (
            web() + &web(),
            "metadata.name: the document is given twice, first at a.yaml:1",
        ),
        (
            web().replace("name: web", "name: web, cluster: west"),
            "there is no cluster `west`",
        ),
        (String::new(), "there is no document in it"),
        (
            "just words".to_owned(),
            "must be a mapping of fields, not `just words`",
        ),
        ("a: [".to_owned(), "cannot be read as YAML or JSON"),
        ("a: !!binary x".to_owned(), "YAML tags"),
    ];
    for (text, words) in cases {
        let found = errors(&text);
        assert!(
            found.iter().any(|error| error.contains(words)),
            "{words:?} not in {found:#?}"
        );
    }
}

#[test]
fn a_broken_pool_is_not_also_a_missing_one() {
    let found = errors(&(pool("web", "nonsense") + &service("web", "192.0.2.10", "80", "web")));
    assert_eq!(found.len(), 1, "{found:#?}");
}

#[test]
fn errors_of_the_present_set_are_found_through_the_new_document() {
    let present =
        try_plan(&(pool("web", "10.0.0.1") + &service("web", "192.0.2.10", "80", "web"))).unwrap();
    let text = service("api", "192.0.2.10", "80", "web");
    let batch = Batch::parse(&[Source {
        name: "b.yaml".to_owned(),
        text,
    }]);
    let found = present.state.plan(batch, Others::Keep, now()).unwrap_err();
    assert_eq!(
        found.0[0].to_string(),
        "Service/web: spec.address: tcp 192.0.2.10 port 80 is used twice, by Service/api and by Service/web"
    );
}

#[test]
fn nat_ports_in_the_ephemeral_range_are_a_warning() {
    let text = document(
        "Port",
        "a",
        "{ node: n, interface: e, nat: { ports: 30000-40000 } }",
    );
    let warnings = try_plan(&text).unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    let shown = warnings[0].to_string();
    assert!(
        shown.starts_with(
            "a.yaml:4:46: Port/a: spec.nat.ports: NAT ports 30000-40000 overlap 32768-60999"
        ),
        "{shown}"
    );
}

#[test]
fn bombs_are_defused() {
    let deep = "[".repeat(100);
    assert!(
        errors(&deep)[0].contains("nested deeper than 32"),
        "{:?}",
        errors(&deep)
    );
    let deep_block: String = (0..2000).fold(String::new(), |text, level| {
        text + &" ".repeat(level) + "a:\n"
    });
    assert!(errors(&deep_block)[0].contains("nested deeper than 32"));
    let mut aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(aliases, "a{level}: &a{level} [{items}]").unwrap();
    }
    assert!(
        errors(&aliases)[0].contains("once aliases are followed"),
        "{:?}",
        errors(&aliases)
    );
    let chain: String = (1..5000).fold("a0: &a0 [x]\n".to_owned(), |text, level| {
        text + &format!("a{level}: &a{level} [*a{}]\n", level - 1)
    });
    assert!(errors(&chain)[0].contains("nested deeper than 32"));
    assert!(
        errors("a: &a [*a]")[0].contains("alias"),
        "{:?}",
        errors("a: &a [*a]")
    );
    assert!(errors("[a]: b")[0].contains("a field name must be a word"));
    assert!(errors("? {a: b}\n: c")[0].contains("a field name must be a word"));
}

#[test]
fn large_files_are_refused_before_they_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let large = directory.path().join("large.yaml");
    // Sparse: reading it whole would need 100 MB, looking at its size does not.
    std::fs::File::create(&large)
        .unwrap()
        .set_len(100 << 20)
        .unwrap();
    let found = read_sources(std::slice::from_ref(&large), &mut std::io::empty()).unwrap_err();
    let shown = found[0].to_string();
    assert!(
        shown.ends_with(
            "large.yaml: the file is too large: a file may have 64 MiB, this one has 100 MiB"
        ),
        "{shown}"
    );
    let mut endless = std::io::repeat(b'a');
    let found = read_sources(&[PathBuf::from("-")], &mut endless).unwrap_err();
    assert!(
        found[0]
            .to_string()
            .contains("<stdin>: the file is too large"),
        "{}",
        found[0]
    );
}

#[test]
fn files_directories_and_stdin_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::File::create(directory.path().join(name))
            .unwrap()
            .write_all(bytes)
            .unwrap();
    };
    let empty = read_sources(&[directory.path().to_owned()], &mut std::io::empty()).unwrap_err();
    assert!(empty[0].message.contains("no *.yaml"));
    write("b.yaml", b"b");
    write("a.json", b"a");
    write("README.md", b"no");
    let paths = [directory.path().to_owned(), PathBuf::from("-")];
    let sources = read_sources(&paths, &mut "from stdin".as_bytes()).unwrap();
    let texts: Vec<&str> = sources.iter().map(|source| source.text.as_str()).collect();
    assert_eq!(texts, ["a", "b", "from stdin"]);
    assert_eq!(sources[2].name, "<stdin>");
    write("c.yml", b"ok\n\xff");
    let missing = directory.path().join("missing.yaml");
    let found = read_sources(
        &[directory.path().to_owned(), missing],
        &mut std::io::empty(),
    )
    .unwrap_err();
    assert_eq!(found.len(), 2);
    assert!(found[0].message.contains("not UTF-8 text (line 2)"));
    assert!(found[1].message.contains("No such file"));
}

#[test]
fn a_node_takes_canonical_text_only() {
    let state = try_plan(&pool("web", "10.0.0.1")).unwrap().state;
    let canonical = state.documents().next().unwrap().canonical().to_owned();
    Document::from_canonical(&canonical).unwrap();
    for other in [
        canonical.replace("\"weight\":1", "\"weight\": 1"),
        canonical.replace(",\"weight\":1", ""),
        canonical.replace("\"weight\":1", "\"weight\":1,\"weight\":1"),
        canonical.replace("80", "0"),
        "{}".to_owned(),
        String::new(),
    ] {
        Document::from_canonical(&other).unwrap_err();
    }
}

#[test]
fn no_text_makes_it_panic() {
    // Truncations and single-byte changes of a valid set: refused or accepted, never a panic.
    let text = pool("web", "10.0.0.1") + &service("web", "192.0.2.10", "80-90", "web") + "# end\n";
    for end in 0..text.len() {
        let _ = try_plan(&text[..end]);
        for byte in [
            "\t", "{", "]", "*", "&", "'", "\"", ":", "\u{0}", "\u{fffd}", "%", "|", "<<",
        ] {
            let mutated = format!("{}{byte}{}", &text[..end], &text[end + 1..]);
            let _ = try_plan(&mutated);
        }
    }
}
