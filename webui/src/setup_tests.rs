//! The set-up console as the network meets it: whole requests against all that it answers.

use super::*;
use crate::guard::Peer;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use base::ByteCount;
use control::setup::Disk;
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery";
const OURS: (&str, &str) = ("sec-fetch-site", "same-origin");
const FOREIGN: (&str, &str) = ("sec-fetch-site", "cross-site");

struct Fixture {
    router: Router,
    setup: Shared,
    dir: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(paths::RUN_DIR)).unwrap();
        let machine = Machine {
            interface: "eth0".into(),
            hardware_address: "52:54:00:00:00:01".into(),
            address: "192.0.2.77".parse().unwrap(),
            prefix_len: 24,
            gateway: Some("192.0.2.1".parse().unwrap()),
            mirror_interface: Some("eth1".into()),
            disks: vec![Disk { path: "/dev/disk/by-path/first".into(), size: ByteCount::gib(100) }],
        };
        std::fs::write(dir.path().join(paths::SETUP_MACHINE), serde_json::to_vec(&machine).unwrap()).unwrap();
        let (setup, _) = Setup::start(dir.path(), machine.address).unwrap();
        Self { router: router(setup.clone()), setup, dir }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::from(body)).unwrap();
        request.extensions_mut().insert(Peer::Remote("192.0.2.9".parse().unwrap()));
        let response = TowerToHyperService::new(self.router.clone()).call(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], String::new()).await
    }

    async fn post(&self, body: &Value) -> Answer {
        self.send("POST", "/api/v1/setup", &[("content-type", "application/json")], body.to_string()).await
    }

    async fn form(&self, headers: &[(&str, &str)], fields: &[(&str, &str)]) -> Answer {
        let pair = |(name, value): &(&str, &str)| format!("{name}={}", crate::text::segment(value));
        let body: Vec<String> = fields.iter().map(pair).collect();
        let kind = ("content-type", "application/x-www-form-urlencoded");
        let headers: Vec<_> = headers.iter().copied().chain([kind]).collect();
        self.send("POST", "/setup", &headers, body.join("&")).await
    }

    /// A good request, with some fields replaced.
    fn good(&self, changes: &Value) -> Value {
        let mut body = json!({
            "code": self.setup.code, "password": PASSWORD, "name": "futago-1", "address": "192.0.2.11/24",
        });
        for (name, value) in changes.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    }

    fn stored(&self, path: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.path().join(path)).ok()
    }
}

#[tokio::test]
async fn by_rest_a_machine_becomes_a_node_once() {
    let fixture = Fixture::new();
    let state = fixture.get("/api/v1/setup").await.json();
    assert_eq!((&state["needed"], &state["machine"]["prefix_len"]), (&json!(true), &json!(24)));
    assert!(!state.to_string().contains(&fixture.setup.code));
    for (changes, part) in [
        (json!({ "name": "a b" }), "name: "),
        (json!({ "role": "primary" }), "role: "),
        (json!({ "address": "192.0.2.11" }), "address: "),
        (json!({ "gateway": "192.0.3.1" }), "gateway: "),
        (json!({ "disks": [] }), "disks: "),
        (json!({ "disks": ["/dev/sda"] }), "disks: "),
        (json!({ "password": "short" }), "password: "),
        (json!({ "color": "blue" }), "color"),
    ] {
        let answer = fixture.post(&fixture.good(&changes)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{changes}: {}", answer.body);
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(part), "{changes}: {message}");
    }
    let both = fixture.good(&json!({ "name": "-", "password": "short" }));
    let message = fixture.post(&both).await.json()["error"]["message"].to_string();
    assert!(message.contains("name: ") && message.contains("password: "), "all faults at once: {message}");
    assert_eq!((fixture.stored("settings.json"), fixture.stored("web/password")), (None, None));

    let answer = fixture.post(&fixture.good(&json!({}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.json()["url"], "https://192.0.2.11/");
    assert_eq!(answer.json()["fingerprint"], fixture.setup.fingerprint);
    let settings = Settings::parse(&fixture.stored("settings.json").unwrap()).unwrap();
    assert_eq!((settings.name.as_str(), settings.portal_interface.as_deref()), ("futago-1", Some("eth0")));
    assert_eq!(settings.disks, ["/dev/disk/by-path/first"]);
    let kept = Password::open(&fixture.dir.path().join(paths::WEB_DIR)).unwrap();
    assert!(kept.verify(PASSWORD).await.unwrap());
    tokio::time::timeout(FAREWELL * 5, fixture.setup.done.notified()).await.unwrap();

    let again =
        fixture.post(&fixture.good(&json!({ "name": "other", "password": "another password" }))).await;
    assert_eq!((again.status, &again.json()["error"]["kind"]), (StatusCode::CONFLICT, &json!("exists")));
    assert!(kept.verify(PASSWORD).await.unwrap());
    let settings = Settings::parse(&fixture.stored("settings.json").unwrap()).unwrap();
    assert_eq!(settings.name, "futago-1");
}

#[tokio::test]
async fn without_the_code_nothing_is_set_up_and_guessing_takes_long() {
    let fixture = Fixture::new();
    for code in ["", "aaaa-aaaa", &fixture.setup.code[..8]] {
        let answer = fixture.post(&fixture.good(&json!({ "code": code }))).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{code}: {}", answer.body);
    }
    let typed = format!(" {} ", fixture.setup.code.to_uppercase().replace('-', " "));
    let answer = fixture.post(&fixture.good(&json!({ "code": typed, "name": "-" }))).await;
    assert_eq!(
        answer.status,
        StatusCode::BAD_REQUEST,
        "a right code does not count as a guess: {}",
        answer.body
    );
    let mut last = answer;
    for _ in 0..10 {
        last = fixture.post(&fixture.good(&json!({ "code": "aaaa-aaaa" }))).await;
    }
    assert_eq!(last.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(last.headers.contains_key("retry-after") && last.body.contains("setup codes"), "{}", last.body);
    let right = fixture.post(&fixture.good(&json!({}))).await;
    assert_eq!(right.status, StatusCode::TOO_MANY_REQUESTS, "nor is a right one looked at meanwhile");
    assert_eq!((fixture.stored("settings.json"), fixture.stored("web/password")), (None, None));
    let other = Setup::start(fixture.dir.path(), "192.0.2.77".parse().unwrap()).unwrap().0;
    assert_ne!(other.code, fixture.setup.code);
    assert_eq!(other.fingerprint, fixture.setup.fingerprint, "the certificate is kept");
}

#[tokio::test]
async fn the_page_is_filled_in_and_shows_faults_beside_their_fields() {
    let fixture = Fixture::new();
    let page = fixture.get("/setup").await;
    for part in ["value=\"192.0.2.77/24\"", "value=\"192.0.2.1\"", "/dev/disk/by-path/first", "100 GiB"] {
        assert!(page.body.contains(part), "{part}: {}", page.body);
    }
    assert!(!page.body.contains(&fixture.setup.code) && !page.body.contains("aria-invalid"));
    assert!(page.headers.contains_key("content-security-policy"));
    let code = fixture.setup.code.clone();
    let fields = |name: &'static str, again: &'static str, code: &str| {
        [("code", code.to_owned()), ("name", name.to_owned()), ("again", again.to_owned())]
    };
    for (values, field, reason) in [
        (fields("a b", PASSWORD, &code), "name", "letters, digits and hyphens"),
        (fields("futago-1", "different", &code), "again", "differ"),
        (fields("futago-1", PASSWORD, "wrong"), "code", "Wrong setup code"),
    ] {
        let mut form = vec![
            ("role", "data"),
            ("address", "192.0.2.11/24"),
            ("gateway", ""),
            ("disk", "/dev/disk/by-path/first"),
            ("password", PASSWORD),
        ];
        form.extend(values.iter().map(|(name, value)| (*name, value.as_str())));
        let page = fixture.form(&[OURS], &form).await;
        let shown = page.body.split(&format!("id=\"{field}-fault\">")).nth(1).unwrap_or_default();
        assert!(shown.split('<').next().unwrap().contains(reason), "{field}: {}", page.body);
        assert!(page.body.contains("value=\"192.0.2.11/24\"") && !page.body.contains(PASSWORD));
        assert_eq!(page.body.matches("aria-invalid").count(), 1, "{field}");
        assert_eq!(fixture.stored("settings.json"), None);
    }
    let form = [
        ("code", code.as_str()),
        ("name", "omega"),
        ("role", "witness"),
        ("address", "2001:db8::11/64"),
        ("password", PASSWORD),
        ("again", PASSWORD),
    ];
    let foreign = fixture.form(&[FOREIGN], &form).await;
    assert_eq!((foreign.status, fixture.stored("settings.json")), (StatusCode::FORBIDDEN, None));
    let page = fixture.form(&[OURS], &form).await;
    assert!(page.body.contains("href=\"https://[2001:db8::11]/\""), "{}", page.body);
    let settings = Settings::parse(&fixture.stored("settings.json").unwrap()).unwrap();
    assert_eq!((settings.name.as_str(), settings.disks.len()), ("omega", 0));
}

#[tokio::test]
async fn everything_else_leads_to_the_page_or_says_what_is_missing() {
    let fixture = Fixture::new();
    for path in ["/", "/volumes", "/login"] {
        let answer = fixture.get(path).await;
        assert_eq!(answer.headers["location"], "/setup", "{path}");
    }
    let answer = fixture.get("/api/v1/status").await;
    let kind = &answer.json()["error"]["kind"];
    assert_eq!((answer.status, kind), (StatusCode::FORBIDDEN, &json!("setup_needed")));
    assert_eq!(fixture.get("/api/v1/openapi.json").await.status, StatusCode::OK);
    assert_eq!(fixture.get("/assets/console.css").await.status, StatusCode::OK);
}
