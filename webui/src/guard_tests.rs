//! The door as a stranger meets it: whole requests against all that the network sees.

use super::*;
use crate::app::App;
use crate::server::network_router;
use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use control::settings::{Ports, Role, Settings};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

const PASSWORD: &str = "correct horse battery";
const OURS: (&str, &str) = ("sec-fetch-site", "same-origin");
const FOREIGN: (&str, &str) = ("sec-fetch-site", "cross-site");
const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

struct Door {
    router: Router,
    app: Shared,
    _dir: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn kind(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        body["error"]["kind"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

impl Door {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            version: 1,
            name: "a".into(),
            role: Role::Data,
            address: "127.0.0.1".parse().unwrap(),
            ports: Ports::default(),
            portal_interface: None,
            portal_prefix_len: 24,
            gateway: None,
            mirror: None,
            dns: Vec::new(),
            ntp: Vec::new(),
            disks: vec!["disk0.img".into()],
            time_scale_percent: 100,
            web: true,
        };
        let (app, _) = App::start(dir.path(), settings).unwrap();
        Self { router: network_router(app.clone()), app, _dir: dir }
    }

    async fn with_password() -> Self {
        let door = Self::new();
        door.app.password.set_first(PASSWORD).await.unwrap();
        door
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "node:8443");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        request.extensions_mut().insert(Peer::Remote("192.0.2.7".parse().unwrap()));
        let response = TowerToHyperService::new(self.router.clone()).call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    /// Cookie and token of a session.
    async fn sign_in(&self) -> (String, String) {
        let body = format!("{{\"password\":\"{PASSWORD}\"}}");
        let answer = self.ask("POST", "/api/v1/login", &[JSON, OURS], &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        (cookie, body["csrf_token"].as_str().unwrap().to_owned())
    }
}

fn basic_header(password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("admin:{password}")))
}

#[tokio::test]
async fn before_set_up_nothing_else_answers() {
    let door = Door::new();
    for path in ["/api/v1/status", "/api/v1/events", "/api/v1/support-bundle", "/metrics"] {
        let answer = door.ask("GET", path, &[], "").await;
        assert_eq!((answer.status, answer.kind()), (StatusCode::FORBIDDEN, "setup_needed".into()), "{path}");
    }
    for path in ["/", "/volumes", "/events/stream"] {
        let answer = door.ask("GET", path, &[], "").await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/setup"), "{path}");
    }
    let body = format!("{{\"password\":\"{PASSWORD}\"}}");
    let answer = door.ask("POST", "/api/v1/setup", &[JSON, FOREIGN], &body).await;
    assert_eq!(answer.kind(), "forbidden");
    assert_eq!(door.ask("POST", "/api/v1/setup", &[JSON], &body).await.status, StatusCode::OK);
    assert_eq!(door.ask("POST", "/api/v1/setup", &[JSON], &body).await.kind(), "exists");
}

#[tokio::test]
async fn strangers_are_sent_to_the_door() {
    let door = Door::with_password().await;
    let answer = door.ask("GET", "/api/v1/status", &[], "").await;
    assert_eq!((answer.status, answer.kind()), (StatusCode::UNAUTHORIZED, "unauthorized".into()));
    assert!(answer.header("www-authenticate").starts_with("Basic"));
    let answer = door.ask("GET", "/nodes", &[], "").await;
    assert_eq!(answer.header("location"), "/login?next=/nodes");
    assert_eq!(door.ask("GET", "/events/stream", &[], "").await.status, StatusCode::UNAUTHORIZED);
    let cookie = ("cookie", "__Host-futago=0000");
    assert_eq!(
        door.ask("POST", "/volumes", &[cookie, OURS, FORM], "").await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn a_cookie_alone_changes_nothing() {
    let door = Door::with_password().await;
    let (cookie, token) = door.sign_in().await;
    let cookie = ("cookie", cookie.as_str());
    let token_header = (csrf::HEADER, token.as_str());
    let path = "/api/v1/pairing/offer";
    assert_eq!(door.ask("POST", path, &[cookie], "").await.kind(), "forbidden");
    assert_eq!(door.ask("POST", path, &[cookie, OURS], "").await.kind(), "forbidden");
    assert_eq!(door.ask("POST", path, &[cookie, token_header], "").await.kind(), "forbidden");
    assert_eq!(door.ask("POST", path, &[cookie, token_header, FOREIGN], "").await.kind(), "forbidden");
    // Let in; there is no cluster manager here.
    assert_eq!(door.ask("POST", path, &[cookie, token_header, OURS], "").await.kind(), "unavailable");

    let form = "name=v&size=1GiB&csrf=";
    let wrong = door.ask("POST", "/volumes", &[cookie, OURS, FORM], &format!("{form}00")).await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);
    let missing = door.ask("POST", "/volumes", &[cookie, OURS, FORM], "name=v&size=1GiB").await;
    assert_eq!(missing.status, StatusCode::BAD_REQUEST);
    let foreign = door.ask("POST", "/volumes", &[cookie, FOREIGN, FORM], &format!("{form}{token}")).await;
    assert_eq!(foreign.status, StatusCode::FORBIDDEN);
    let right = door.ask("POST", "/volumes", &[cookie, OURS, FORM], &format!("{form}{token}")).await;
    assert_eq!((right.status, right.header("location")), (StatusCode::SEE_OTHER, "/volumes"));
    let page = door.ask("GET", "/volumes", &[cookie], "").await;
    assert!(page.body.contains("does not answer"), "the reason is shown");

    let out = door.ask("POST", "/logout", &[cookie, OURS, FORM], &format!("csrf={token}")).await;
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(door.ask("GET", "/api/v1/nodes", &[cookie], "").await.kind(), "unauthorized");
}

#[tokio::test]
async fn basic_works_for_programs_and_not_for_other_sites() {
    let door = Door::with_password().await;
    let right = basic_header(PASSWORD);
    let right = ("authorization", right.as_str());
    assert_eq!(door.ask("GET", "/metrics", &[right], "").await.status, StatusCode::OK);
    assert_eq!(door.ask("POST", "/api/v1/pairing/offer", &[right], "").await.kind(), "unavailable");
    assert_eq!(door.ask("POST", "/api/v1/pairing/offer", &[right, FOREIGN], "").await.kind(), "forbidden");
    let wrong = basic_header("wrong");
    let mut last = door.ask("GET", "/metrics", &[("authorization", &wrong)], "").await;
    assert_eq!(last.status, StatusCode::UNAUTHORIZED);
    // On a busy machine the first waits pass while a hash is computed; they double.
    for _ in 0..20 {
        if last.status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        last = door.ask("GET", "/metrics", &[("authorization", &wrong)], "").await;
    }
    assert_eq!(last.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(last.header("retry-after").parse::<u64>().unwrap() >= 1);
    // A failure in the future keeps the wait from passing: the right password does not end it either.
    let later = Instant::now() + std::time::Duration::from_secs(800);
    door.app.limiter.attempt("192.0.2.7".parse().unwrap(), later).unwrap();
    assert_eq!(door.ask("GET", "/metrics", &[right], "").await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn faults_of_a_request_are_named_in_json() {
    let door = Door::with_password().await;
    let right = basic_header(PASSWORD);
    let right = ("authorization", right.as_str());
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(100_000));
    for (method, path, body, status, kind) in [
        ("GET", "/api/v1/nothing", "", 404, "not_found"),
        ("PUT", "/api/v1/status", "", 405, "method_not_allowed"),
        ("POST", "/api/v1/volumes", "{", 400, "invalid"),
        ("POST", "/api/v1/volumes", "{\"name\":\"v\"}", 400, "invalid"),
        ("POST", "/api/v1/volumes", "{\"name\":\"v\",\"size\":4096,\"more\":1}", 400, "invalid"),
        ("POST", "/api/v1/volumes", large.as_str(), 413, "too_large"),
        ("DELETE", "/api/v1/targets/x/luns/70000", "", 400, "invalid"),
        ("GET", "/api/v1/events?after=x", "", 400, "invalid"),
        ("GET", "/api/v1/status", "", 503, "unavailable"),
    ] {
        let answer = door.ask(method, path, &[right, JSON], body).await;
        assert_eq!((answer.status.as_u16(), answer.kind().as_str()), (status, kind), "{method} {path}");
    }
}

#[tokio::test]
async fn every_answer_keeps_the_browser_on_the_safe_side() {
    let door = Door::with_password().await;
    for path in ["/", "/login", "/nothing", "/api/v1/status", "/assets/console.css"] {
        let answer = door.ask("GET", path, &[], "").await;
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        let kept = path.starts_with("/assets/");
        assert_eq!(answer.header("cache-control") == "no-store", !kept, "{path}");
    }
    let page = door.ask("GET", "/login", &[], "").await.body;
    assert!(!page.contains("style=") && !page.contains("onclick") && !page.contains("<script>"));
}
