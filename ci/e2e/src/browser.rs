//! A headless Chromium with its driver (W3C WebDriver over HTTP on loopback). Both end with the value.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The key under which WebDriver hands out elements (W3C WebDriver §11).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How long a page may take to show what is waited for, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One browser window.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    profile: tempfile::TempDir,
}

/// Something on the page.
pub struct Element(String);

impl Browser {
    /// Starts a browser that accepts the consoles' self-made certificates.
    pub fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("TMPDIR", profile.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver (Debian package chromium-driver)");
        let port = announced_port(&mut driver);
        let mut browser = Self { driver, port, session: String::new(), profile };
        let data = browser.profile.path().join("profile");
        let options = json!({
            "args": [
                "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                "--window-size=1280,900", format!("--user-data-dir={}", data.display()),
            ]
        });
        let wanted = json!({ "acceptInsecureCerts": true, "goog:chromeOptions": options });
        let answer = browser.call("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = answer["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    pub fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({ "url": url }));
    }

    pub fn url(&self) -> String {
        self.command("GET", "/url", &Value::Null).as_str().unwrap().to_owned()
    }

    /// Waits until `css` is on the page.
    pub fn find(&self, css: &str) -> Element {
        let body = json!({ "using": "css selector", "value": css });
        let found = wait_for(&format!("{css} at {}", self.url()), || {
            self.try_command("POST", "/element", &body)
                .ok()
                .and_then(|v| v[ELEMENT].as_str().map(str::to_owned))
        });
        Element(found)
    }

    pub fn text(&self, css: &str) -> String {
        // The element may be replaced between the two calls by a live update: ask in one.
        let script = "const e = document.querySelector(arguments[0]); return e ? e.innerText : '';";
        self.script(script, &json!([css])).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the text of `css` contains `expected`.
    pub fn wait_text(&self, css: &str, expected: &str) {
        let mut last = String::new();
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            last = self.text(css);
            if last.contains(expected) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{css} at {} never said {expected:?}; it says {last:?}", self.url());
    }

    pub fn click(&self, css: &str) {
        let element = self.find(css);
        self.command("POST", &format!("/element/{}/click", element.0), &json!({}));
    }

    pub fn fill(&self, css: &str, text: &str) {
        let element = self.find(css);
        self.command("POST", &format!("/element/{}/value", element.0), &json!({ "text": text }));
    }

    /// Runs JavaScript in the page.
    pub fn script(&self, script: &str, arguments: &Value) -> Value {
        self.command("POST", "/execute/sync", &json!({ "script": script, "args": arguments }))
    }

    /// Messages of the browser's own console: violations of the page's policy, faults of its script.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.command("POST", "/se/log", &json!({ "type": "browser" }));
        let entries = log.as_array().cloned().unwrap_or_default();
        entries.iter().map(|e| e["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Chromium's own protocol, for what WebDriver has no word for.
    pub fn devtools(&self, method: &str, params: &Value) -> Value {
        self.command("POST", "/goog/cdp/execute", &json!({ "cmd": method, "params": params }))
    }

    /// A picture of the whole page, `width` CSS pixels wide, as a PNG at `path`.
    pub fn picture(&self, path: &Path, width: u32, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &media);
        let metrics = |height| json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics(800));
        std::thread::sleep(Duration::from_millis(300));
        let height = self.script("return document.documentElement.scrollHeight", &json!([]));
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics(height.as_u64().unwrap()));
        let shot = self.devtools("Page.captureScreenshot", &json!({ "format": "png" }));
        let bytes = base64(shot["data"].as_str().unwrap());
        std::fs::write(path, bytes).unwrap();
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_command(method, path, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    fn try_command(&self, method: &str, path: &str, body: &Value) -> Result<Value, Value> {
        self.try_call(method, &format!("/session/{}{path}", self.session), body)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_call(method, path, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        )
        .unwrap();
        let (status, answer) = read_answer(stream);
        let value = serde_json::from_slice::<Value>(&answer).unwrap()["value"].clone();
        if status == 200 { Ok(value) } else { Err(value) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser; then the driver, which would end by itself with it.
        if !self.session.is_empty() {
            let _ = self.try_command("DELETE", "", &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The driver says where it listens: "… started successfully on port N."
fn announced_port(driver: &mut Child) -> u16 {
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let port = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| {
            line.split("successfully on port ").nth(1).map(|rest| rest.trim_end_matches('.').to_owned())
        })
        .expect("a port of chromedriver");
    // Its further words are read away, so that it never waits for us.
    std::thread::spawn(move || lines.count());
    port.parse().unwrap()
}

fn read_answer(stream: TcpStream) -> (u16, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let mut len = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).unwrap();
    (status, body)
}

/// Calls `probe` until it answers; fails naming `what` after [`PATIENCE`].
fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: never there");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// RFC 4648 §4.
fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => u32::from(c - b'A'),
        b'a'..=b'z' => u32::from(c - b'a') + 26,
        b'0'..=b'9' => u32::from(c - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("base64"),
    };
    let digits: Vec<u32> = text.bytes().filter(|&c| c != b'=').map(digit).collect();
    let mut out = Vec::new();
    for group in digits.chunks(4) {
        let bits = group.iter().enumerate().fold(0, |bits, (i, d)| bits | (d << (18 - 6 * i)));
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    out
}
