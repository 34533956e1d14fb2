//! Probes against real servers on loopback.

use core::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;

const DEADLINE: Duration = Duration::from_mins(1);

fn check(probe: Probe) -> Check {
    Check {
        probe,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        rise: 2,
        fall: 3,
    }
}

fn http() -> Probe {
    Probe::Http {
        path: "/healthz".into(),
        host: None,
    }
}

fn target(slot: u16, address: SocketAddr, probe: Probe) -> ProbeTarget {
    let pool = "web".into();
    ProbeTarget {
        pool,
        slot,
        address: address.ip(),
        port: address.port(),
        check: check(probe),
    }
}

/// A prober with its two channels.
struct Bench {
    targets: watch::Sender<Vec<ProbeTarget>>,
    events: mpsc::Receiver<HealthEvent>,
    prober: Prober,
}

impl Bench {
    fn start(first: Vec<ProbeTarget>) -> Self {
        let (targets, wanted) = watch::channel(first);
        let (sender, events) = mpsc::channel(8);
        Self {
            targets,
            events,
            prober: Prober::spawn(wanted, sender),
        }
    }

    async fn event(&mut self) -> HealthEvent {
        let event = tokio::time::timeout(DEADLINE, self.events.recv()).await;
        event.expect("an event in time").expect("the prober lives")
    }

    async fn until(&self, what: &str, is_met: impl Fn(&TargetState) -> bool) -> TargetState {
        let found = tokio::time::timeout(DEADLINE, async {
            loop {
                if let Some(state) = self.prober.table().into_iter().find(&is_met) {
                    return state;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        found
            .await
            .unwrap_or_else(|_| panic!("{what}: {:?}", self.prober.table()))
    }
}

/// An HTTP server that answers every request with `answer` as it is set at that moment, and remembers the last request.
struct Server {
    address: SocketAddr,
    answer: watch::Sender<Vec<u8>>,
    request: watch::Receiver<Vec<u8>>,
}

impl Server {
    async fn start(answer: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (answer, answers) = watch::channel(answer.as_bytes().to_vec());
        let (requests, request) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 2048];
                let Ok(bytes) = stream.read(&mut request).await else {
                    continue;
                };
                request.truncate(bytes);
                requests.send_replace(request);
                let answer = answers.borrow().clone();
                // The prober may have seen enough before all of it is written.
                let _ = stream.write_all(&answer).await;
            }
        });
        Self {
            address,
            answer,
            request,
        }
    }

    fn say(&self, answer: &str) {
        self.answer.send_replace(answer.as_bytes().to_vec());
    }
}

async fn dead_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a free port");
    listener.local_addr().expect("bound")
}

#[test]
fn the_judge_counts_answers_in_a_row() {
    let check = Check {
        rise: 2,
        fall: 3,
        ..check(Probe::Tcp)
    };
    let mut judge = Judge::default();
    let mut story = String::new();
    for answer in "xx.xxx.x..xx.xxxx..".chars() {
        let change = judge.on_answer(answer == '.', &check);
        story.push(match change {
            None => '-',
            Some(true) => 'U',
            Some(false) => 'D',
        });
    }
    //          "xx.xxx.x..xx.xxxx.."
    assert_eq!(story, "-----D---U-----D--U");
}

#[test]
fn unknown_becomes_unhealthy_after_fall_failures_and_healthy_after_one_success() {
    for fall in [0, 1, 2, 5] {
        let check = Check {
            fall,
            ..check(Probe::Tcp)
        };
        let mut judge = Judge::default();
        for failure in 1..=fall.max(1) {
            assert!(judge.health.is_usable(), "unknown counts as healthy");
            let decided = judge.on_answer(false, &check) == Some(false);
            assert_eq!(decided, failure == fall.max(1));
        }
        assert_eq!(judge.health, Health::Unhealthy);
    }
    let mut judge = Judge::default();
    assert_eq!(
        judge.on_answer(true, &check(Probe::Tcp)),
        None,
        "it counted as healthy already"
    );
    assert_eq!(judge.health, Health::Healthy);
}

#[test]
fn status_lines() {
    for (answer, status) in [
        ("HTTP/1.1 200 OK\r\n", Some(200)),
        ("HTTP/1.0 301 Moved\r\nLocation: /\r\n", Some(301)),
        ("HTTP/1.1 503\r\n", Some(503)),
        ("HTTP/1.1 204", Some(204)),
        ("HTTP/2 200 OK\r\n", None),
        ("HTTP/1.1 2000 OK\r\n", None),
        ("HTTP/1.1 20", None),
        ("HTTP/1.1 099 x\r\n", None),
        ("HTTP/1.1 600 x\r\n", None),
        ("HTTP/1.1 2x0 x\r\n", None),
        ("SSH-2.0-OpenSSH\r\n", None),
        ("", None),
    ] {
        assert_eq!(parse_status(answer.as_bytes()), status, "{answer:?}");
    }
}

#[tokio::test]
async fn a_tcp_target_goes_down_and_comes_back() {
    let address = dead_address().await;
    let mut bench = Bench::start(vec![target(3, address, Probe::Tcp)]);
    let event = bench.event().await;
    assert_eq!((event.slot, event.healthy, event.rtt), (3, false, None));
    assert!(event.reason.contains("refused"), "{}", event.reason);
    let state = bench
        .until("down", |state| state.health == Health::Unhealthy)
        .await;
    assert!(state.failures >= 3);

    let listener = TcpListener::bind(address).await.expect("still free");
    let event = bench.event().await;
    assert_eq!((event.slot, event.healthy), (3, true));
    assert!(event.rtt.is_some());
    let state = bench
        .until("up", |state| state.health == Health::Healthy)
        .await;
    assert_eq!(state.changes, 2);
    assert!(state.successes >= 2);
    drop(listener);
    assert!(!bench.event().await.healthy);
}

#[tokio::test]
async fn a_healthy_target_says_nothing() {
    let server = Server::start("HTTP/1.1 200 OK\r\n\r\n").await;
    let mut bench = Bench::start(vec![target(0, server.address, http())]);
    let state = bench
        .until("many probes", |state| state.successes > 10)
        .await;
    assert_eq!(
        (state.health, state.changes, state.failures),
        (Health::Healthy, 0, 0)
    );
    assert_eq!(&*state.reason, "HTTP status 200");
    assert!(bench.events.try_recv().is_err());
    let request = String::from_utf8(server.request.borrow().clone()).expect("text");
    assert!(
        request.starts_with("GET /healthz HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.contains(&format!("\r\nHost: {}\r\n", server.address)),
        "{request}"
    );
}

#[tokio::test]
async fn http_status_decides() {
    let server = Server::start("HTTP/1.1 302 Found\r\n\r\n").await;
    let mut bench = Bench::start(vec![target(0, server.address, http())]);
    bench
        .until("a redirect is an answer", |state| state.successes > 3)
        .await;
    for bad in [
        "HTTP/1.1 500 no\r\n\r\n",
        "HTTP/1.1 404 no\r\n\r\n",
        "220 smtp ready\r\n",
        "",
    ] {
        server.say(bad);
        assert!(!bench.event().await.healthy, "{bad:?}");
        server.say("HTTP/1.1 204 fine\r\n\r\n");
        assert!(bench.event().await.healthy);
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let server = Server::start(&"x".repeat(1 << 20)).await;
    let mut bench = Bench::start(vec![target(0, server.address, http())]);
    let event = bench.event().await;
    assert_eq!((event.healthy, &*event.reason), (false, "not HTTP"));
}

#[tokio::test]
async fn a_server_that_never_answers_times_out() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a free port");
    let mut target = target(0, listener.local_addr().expect("bound"), http());
    target.check.timeout = Duration::from_millis(50);
    let mut bench = Bench::start(vec![target]);
    let event = bench.event().await;
    assert_eq!(
        (event.healthy, &*event.reason),
        (false, "no answer within 50 ms")
    );
}

#[tokio::test]
async fn the_first_decision_does_not_wait_for_full_intervals() {
    let mut slow = target(0, dead_address().await, Probe::Tcp);
    slow.check.interval = Duration::from_hours(1);
    let mut bench = Bench::start(vec![slow]);
    assert!(
        !bench.event().await.healthy,
        "three failures, far within the first interval"
    );
}

#[tokio::test]
async fn the_host_header_can_be_set() {
    let server = Server::start("HTTP/1.1 200 OK\r\n\r\n").await;
    let probe = Probe::Http {
        path: "/".into(),
        host: Some("www.example.org".into()),
    };
    let bench = Bench::start(vec![target(0, server.address, probe)]);
    bench.until("asked", |state| state.successes > 0).await;
    let request = String::from_utf8(server.request.borrow().clone()).expect("text");
    assert!(
        request.contains("\r\nHost: www.example.org\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn an_unchanged_target_keeps_its_state_and_a_removed_one_is_forgotten() {
    let server = Server::start("HTTP/1.1 200 OK\r\n\r\n").await;
    let kept = target(1, server.address, http());
    let removed = target(2, server.address, Probe::Tcp);
    let bench = Bench::start(vec![kept.clone(), removed]);
    let before = bench
        .until("asked", |state| {
            state.target.slot == 1 && state.successes > 3
        })
        .await;
    bench
        .targets
        .send_replace(vec![kept.clone(), target(4, server.address, Probe::Tcp)]);
    bench
        .until("the new one", |state| {
            state.target.slot == 4 && state.successes > 0
        })
        .await;
    let table = bench.prober.table();
    assert_eq!(
        table
            .iter()
            .map(|state| state.target.slot)
            .collect::<Vec<_>>(),
        [1, 4]
    );
    assert!(table[0].successes >= before.successes, "counted on");

    // Another check of the same backend: the state stays, the probes change.
    let mut other_check = kept;
    other_check.check.probe = Probe::Tcp;
    bench.targets.send_replace(vec![other_check.clone()]);
    let state = bench
        .until("the new check", |state| state.target == other_check)
        .await;
    assert!(state.successes >= before.successes);
    assert_eq!(state.health, Health::Healthy);
}

#[tokio::test]
async fn a_target_that_points_elsewhere_starts_anew() {
    let server = Server::start("HTTP/1.1 200 OK\r\n\r\n").await;
    let mut bench = Bench::start(vec![target(0, dead_address().await, Probe::Tcp)]);
    assert!(!bench.event().await.healthy);
    bench
        .targets
        .send_replace(vec![target(0, server.address, Probe::Tcp)]);
    let event = bench.event().await;
    assert!(event.healthy, "unknown counts as healthy: {event:?}");
    let state = bench
        .until("asked", |state| state.health == Health::Healthy)
        .await;
    assert_eq!(state.failures, 0, "nothing is carried over");
}

#[tokio::test]
async fn dropping_the_prober_ends_the_probes() {
    let server = Server::start("HTTP/1.1 200 OK\r\n\r\n").await;
    let Bench {
        targets,
        mut events,
        prober,
    } = Bench::start(vec![target(0, server.address, http())]);
    drop(prober);
    let closed = tokio::time::timeout(DEADLINE, events.recv())
        .await
        .expect("every sender is gone");
    assert_eq!(closed, None);
    tokio::time::timeout(DEADLINE, targets.closed())
        .await
        .expect("nobody watches any more");
}

#[test]
fn what_a_slot_s_earlier_target_did_says_nothing_of_the_present_one() {
    let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let state = |slot, port, health| TargetState {
        health,
        ..fresh(target(slot, at(port), Probe::Tcp))
    };
    let states = [
        state(1, 80, Health::Unhealthy),
        state(2, 80, Health::Unhealthy),
        state(3, 80, Health::Unknown),
        state(4, 80, Health::Unhealthy),
    ];
    let present = [
        target(1, at(80), http()),
        target(2, at(81), Probe::Tcp),
        target(3, at(80), Probe::Tcp),
    ];
    assert_eq!(down(&states, &present), BTreeSet::from([1]));
}
