//! Typed client of the REST interface: over a node's unix socket, or over HTTPS with the admin password.
//!
//! ```no_run
//! # async fn example() -> Result<(), futago_webui::client::ClientError> {
//! let client = futago_webui::client::Client::local(std::path::Path::new("demo-state/a"));
//! client.setup("a long password").await?;
//! for volume in client.status().await?.volumes {
//!     println!("{} {:?}", volume.name, volume.state);
//! }
//! # Ok(())
//! # }
//! ```

use crate::errors::ErrorBody;
use crate::http::{self, Answered, Body, HttpError};
use crate::rest::setup::NewMachine;
use crate::text::segment;
use base::ByteCount;
use base64::Engine;
use control::api::{Event, Status};
use control::names::Pattern;
use control::service::ServiceStatus;
use control::settings::Settings;
use control::setup::Wanted;
use control::targets::{Chap, Presentation};
use control::update::{ClusterUpdate, UpdateStatus};
use hyper::{Method, Uri};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

pub use crate::tls::Trust;

/// Largest answer taken; a support bundle is the largest.
const MOST_BYTES: usize = 512 << 20;
/// Likewise of another member, which is asked for no support bundle.
const MOST_MEMBER_BYTES: usize = 8 << 20;
/// Time for one request. Longer than any command takes at the other end.
const PATIENCE: Duration = Duration::from_secs(75);
/// The longest reason of the cluster manager that is read.
const MOST_ANSWER_BYTES: usize = 1 << 10;
/// Media type of an update.
const BYTES: &str = "application/octet-stream";
/// Time for an update to get there.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(1800);

/// Not done: a word for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    /// As in [`control::api::Answer::Failed`], and `unauthorized`, `setup_needed`, `too_many_attempts`, `internal`,
    /// `unreachable` (no console there), `invalid_url`.
    pub kind: String,
    /// Names the thing.
    pub message: String,
}

impl ClientError {
    /// Not done because it was done before.
    #[must_use]
    pub fn is_done_already(&self) -> bool {
        self.kind == "exists"
    }

    pub(crate) fn new(kind: &str, message: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), message: message.into() }
    }
}

/// A pairing code to show at the other node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairingOffer {
    /// Digits and hyphens.
    pub code: String,
    /// Seconds that it is good for.
    pub valid_s: u64,
}

/// Where a machine that was set up is from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetUp {
    /// Its console.
    pub url: String,
    /// SHA-256 of the console's certificate, as `AB:CD:…`.
    pub fingerprint: String,
}

/// A download that works once, without sign-in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadLink {
    /// Below the console's URL: `/bundle/…`.
    pub path: String,
    /// Seconds that it is good for.
    pub valid_s: u64,
}

/// The last update of all nodes that a node knows of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownUpdate {
    /// `None`: of none since its web process started.
    pub update: Option<ClusterUpdate>,
    /// The node that leads it has said nothing for so many seconds; 0: it speaks.
    pub silent_s: u64,
}

/// One console.
#[derive(Clone)]
pub struct Client {
    endpoint: Endpoint,
}

#[derive(Clone)]
enum Endpoint {
    /// Of the node with this directory.
    Local(PathBuf),
    /// Of another member, by this node's cluster manager.
    Member {
        tunnel: PathBuf,
        name: String,
    },
    Https {
        host: String,
        port: u16,
        authorization: String,
        password: String,
        tls: Arc<ClientConfig>,
    },
}

impl Client {
    /// The console of the node whose directory is `dir`, by its unix socket. Does no I/O yet.
    #[must_use]
    pub fn local(dir: &Path) -> Self {
        Self { endpoint: Endpoint::Local(dir.to_owned()) }
    }

    /// What the console of member `name` does for the other members, by the cluster manager of the node whose directory is
    /// `dir`. Does no I/O yet.
    pub(crate) fn member(dir: &Path, name: &str) -> Self {
        let tunnel = dir.join(control::paths::TUNNEL_SOCKET);
        Self { endpoint: Endpoint::Member { tunnel, name: name.to_owned() } }
    }

    /// The console at `url` (`https://HOST[:PORT]`), with HTTP Basic. Does no I/O yet.
    pub fn remote(url: &str, user: &str, password: &str, trust: Trust) -> Result<Self, ClientError> {
        let fault = |reason: String| ClientError::new("invalid_url", reason);
        let uri: Uri = url.parse().map_err(|e| fault(format!("{url}: {e}")))?;
        if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") {
            return Err(fault(format!("{url}: must be https://HOST or https://HOST:PORT")));
        }
        let host = uri.host().ok_or_else(|| fault(format!("{url}: no host")))?.to_owned();
        let secret = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let tls = crate::tls::client_config(trust).map_err(fault)?;
        let port = uri.port_u16().unwrap_or(443);
        let (authorization, password) = (format!("Basic {secret}"), password.to_owned());
        Ok(Self { endpoint: Endpoint::Https { host, port, authorization, password, tls } })
    }

    /// Everything, as of now.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/api/v1/status").await
    }

    /// The services of the node behind the console.
    pub async fn services(&self) -> Result<Vec<ServiceStatus>, ClientError> {
        self.get("/api/v1/services").await
    }

    /// Events with a number over `after`, oldest first.
    pub async fn events(&self, after: u64) -> Result<Vec<Event>, ClientError> {
        self.get(&format!("/api/v1/events?after={after}")).await
    }

    /// SHA-256 of the console's certificate, as `AB:CD:…`.
    pub async fn fingerprint(&self) -> Result<String, ClientError> {
        #[derive(Deserialize)]
        struct Fingerprint {
            sha256: String,
        }
        self.get("/api/v1/certificate").await.map(|f: Fingerprint| f.sha256)
    }

    /// Sets the first admin password; `exists` if there is one.
    pub async fn setup(&self, password: &str) -> Result<(), ClientError> {
        self.change(Method::POST, "/api/v1/setup", &serde_json::json!({ "password": password })).await
    }

    /// Makes a machine without settings what is `wanted`; `code` stands on its screen. It goes on by itself.
    pub async fn set_up_machine(
        &self,
        code: &str,
        password: &str,
        wanted: &Wanted,
    ) -> Result<SetUp, ClientError> {
        let Wanted { name, role, address, gateway, mirror_address, dns, ntp, disks } = wanted.clone();
        let (code, password) = (code.to_owned(), password.to_owned());
        let new =
            NewMachine { code, password, name, role, address, gateway, mirror_address, dns, ntp, disks };
        let body = serde_json::to_vec(&new).map_err(|e| ClientError::new("internal", e.to_string()))?;
        read(&self.send(Method::POST, "/api/v1/setup", Some(body)).await?)
    }

    /// Stores another admin password and signs everyone out; this client too, if it is a remote one.
    pub async fn change_password(&self, password: &str) -> Result<(), ClientError> {
        let current = match &self.endpoint {
            Endpoint::Local(_) | Endpoint::Member { .. } => None,
            Endpoint::Https { password, .. } => Some(password),
        };
        let change = serde_json::json!({ "password": password, "current": current });
        self.change(Method::PUT, "/api/v1/password", &change).await
    }

    /// Makes the node the first member of a new cluster.
    pub async fn create_cluster(&self, portal: SocketAddr) -> Result<(), ClientError> {
        self.change(Method::POST, "/api/v1/cluster", &serde_json::json!({ "portal": portal })).await
    }

    /// Lets one node pair with this one.
    pub async fn offer_pairing(&self) -> Result<PairingOffer, ClientError> {
        let answered = self.send(Method::POST, "/api/v1/pairing/offer", None).await?;
        read(&answered)
    }

    /// Pairs with the node at `address` (cluster port), which shows `code`, and adds it to this node's cluster.
    pub async fn join(&self, address: SocketAddr, code: &str) -> Result<(), ClientError> {
        let body = serde_json::json!({ "address": address, "code": code });
        self.change(Method::POST, "/api/v1/pairing/join", &body).await
    }

    /// Takes a node out of the cluster. Returns when it is committed and the node has no vote any more.
    pub async fn remove_member(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&format!("/api/v1/nodes/{}", segment(name))).await
    }

    /// A new volume.
    pub async fn create_volume(
        &self,
        name: &str,
        size: ByteCount,
        presentation: Presentation,
    ) -> Result<(), ClientError> {
        let Presentation { block_format, thin } = presentation;
        let body =
            serde_json::json!({ "name": name, "size": size, "block_format": block_format, "thin": thin });
        self.change(Method::POST, "/api/v1/volumes", &body).await
    }

    /// Gives a volume a larger size. Returns when it has it, or after a while, when that goes on by itself.
    pub async fn grow_volume(&self, name: &str, size: ByteCount) -> Result<(), ClientError> {
        let path = format!("/api/v1/volumes/{}/grow", segment(name));
        self.change(Method::POST, &path, &serde_json::json!({ "size": size })).await
    }

    /// Deletes a volume that no target uses. The data is lost.
    pub async fn delete_volume(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&format!("/api/v1/volumes/{}", segment(name))).await
    }

    /// Moves the service of a volume to `to`, or to whichever peer is in sync. Returns when it is committed.
    pub async fn hand_over(&self, volume: &str, to: Option<&str>) -> Result<(), ClientError> {
        let path = format!("/api/v1/volumes/{}/handover", segment(volume));
        self.change(Method::POST, &path, &serde_json::json!({ "to": to })).await
    }

    /// A new target.
    pub async fn create_target(&self, iqn: &str) -> Result<(), ClientError> {
        self.change(Method::POST, "/api/v1/targets", &serde_json::json!({ "iqn": iqn })).await
    }

    /// Deletes a target that has no LUN.
    pub async fn delete_target(&self, iqn: &str) -> Result<(), ClientError> {
        self.delete(&format!("/api/v1/targets/{}", segment(iqn))).await
    }

    /// Shows a volume as a LUN, to those `initiators` alone if there are any.
    pub async fn map_lun(
        &self,
        iqn: &str,
        lun: u16,
        volume: &str,
        read_only: bool,
        initiators: &[Pattern],
    ) -> Result<(), ClientError> {
        let path = format!("/api/v1/targets/{}/luns", segment(iqn));
        let body = serde_json::json!({
            "lun": lun, "volume": volume, "read_only": read_only, "initiators": initiators
        });
        self.change(Method::POST, &path, &body).await
    }

    /// Changes how a LUN is shown; what is `None` stays.
    pub async fn change_lun(
        &self,
        iqn: &str,
        lun: u16,
        read_only: Option<bool>,
        initiators: Option<&[Pattern]>,
    ) -> Result<(), ClientError> {
        let path = format!("/api/v1/targets/{}/luns/{lun}", segment(iqn));
        let body = serde_json::json!({ "read_only": read_only, "initiators": initiators });
        self.change(Method::PATCH, &path, &body).await
    }

    /// Lets initiators log in to a target.
    pub async fn allow_initiator(&self, iqn: &str, pattern: &Pattern) -> Result<(), ClientError> {
        let path = format!("/api/v1/targets/{}/initiators", segment(iqn));
        self.change(Method::POST, &path, &serde_json::json!({ "pattern": pattern })).await
    }

    /// Takes such a rule back; the last one only if the target is to be `open` to everyone.
    pub async fn deny_initiator(&self, iqn: &str, pattern: &Pattern, open: bool) -> Result<(), ClientError> {
        self.delete(&format!("{}?open={open}", rule_path(iqn, pattern))).await
    }

    /// Sets (or, with `None`, removes) CHAP of a target or of one of its rules.
    pub async fn set_chap(
        &self,
        iqn: &str,
        pattern: Option<&Pattern>,
        chap: Option<&Chap>,
    ) -> Result<(), ClientError> {
        let place = match pattern {
            None => format!("/api/v1/targets/{}/chap", segment(iqn)),
            Some(pattern) => format!("{}/chap", rule_path(iqn, pattern)),
        };
        match chap {
            None => self.delete(&place).await,
            Some(chap) => self.change(Method::PUT, &place, &serde_json::json!(chap)).await,
        }
    }

    /// Takes a LUN away.
    pub async fn unmap_lun(&self, iqn: &str, lun: u16) -> Result<(), ClientError> {
        self.delete(&format!("/api/v1/targets/{}/luns/{lun}", segment(iqn))).await
    }

    /// Which release runs on the node, and how far the last update is.
    pub async fn update_status(&self) -> Result<UpdateStatus, ClientError> {
        self.get("/api/v1/update").await
    }

    /// Sends an update; returns when the node has it and begins to install it.
    pub async fn upload_update(&self, bundle: Vec<u8>) -> Result<(), ClientError> {
        let body = Body::of(bundle, BYTES);
        self.exchange(Method::POST, "/api/v1/update", Some(body), UPLOAD_PATIENCE).await.map(|_| ())
    }

    /// Sends an update and has every node take it but those in `without`; returns when the node has it and begins.
    pub async fn update_cluster(
        &self,
        bundle: Vec<u8>,
        without: &[String],
    ) -> Result<ClusterUpdate, ClientError> {
        let names: Vec<_> = without.iter().map(|name| segment(name)).collect();
        let path = format!("/api/v1/update/cluster?without={}", names.join(","));
        read(&self.exchange(Method::POST, &path, Some(Body::of(bundle, BYTES)), UPLOAD_PATIENCE).await?)
    }

    /// The last update of all nodes that the node knows of.
    pub async fn cluster_update(&self) -> Result<KnownUpdate, ClientError> {
        self.get("/api/v1/update/cluster").await
    }

    /// Sends the update in a file of `len_bytes` to `path`.
    pub(crate) async fn send_update(
        &self,
        path: &str,
        file: File,
        len_bytes: u64,
    ) -> Result<(), ClientError> {
        let body = Body::of_file(file, len_bytes, BYTES);
        self.exchange(Method::POST, path, Some(body), UPLOAD_PATIENCE).await.map(|_| ())
    }

    /// Tells another member how far the update of all nodes is.
    pub(crate) async fn tell_cluster_update(&self, update: &ClusterUpdate) -> Result<(), ClientError> {
        self.change(Method::PUT, "/api/v1/update/cluster", &serde_json::json!(update)).await
    }

    /// Restarts the node's machine.
    pub async fn restart(&self) -> Result<(), ClientError> {
        self.send(Method::POST, "/api/v1/restart", None).await.map(|_| ())
    }

    /// The support bundle: a tar archive.
    pub async fn support_bundle(&self) -> Result<Vec<u8>, ClientError> {
        let answered = self.send(Method::GET, "/api/v1/support-bundle", None).await?;
        Ok(answered.body.to_vec())
    }

    /// A link to the support bundle for whoever has a browser, but no password at hand.
    pub async fn support_bundle_link(&self) -> Result<DownloadLink, ClientError> {
        read(&self.send(Method::POST, "/api/v1/support-bundle/link", None).await?)
    }

    /// Address with prefix length, and gateway, of a node that is a machine of its own and in no cluster; it restarts then.
    pub async fn set_network(&self, address: &str, gateway: Option<IpAddr>) -> Result<(), ClientError> {
        let body = serde_json::json!({ "address": address, "gateway": gateway });
        self.change(Method::PUT, "/api/v1/network", &body).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        read(&self.send(Method::GET, path, None).await?)
    }

    async fn change(&self, method: Method, path: &str, body: &serde_json::Value) -> Result<(), ClientError> {
        self.send(method, path, Some(body.to_string().into_bytes())).await.map(|_| ())
    }

    async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, path, None).await.map(|_| ())
    }

    async fn send(&self, method: Method, path: &str, json: Option<Vec<u8>>) -> Result<Answered, ClientError> {
        let body = json.map(|content| Body::of(content, "application/json"));
        self.exchange(method, path, body, PATIENCE).await
    }

    /// One request; an answer other than success comes out as an error.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
        patience: Duration,
    ) -> Result<Answered, ClientError> {
        let answered = match &self.endpoint {
            Endpoint::Local(dir) => {
                let socket = &dir.join(control::paths::WEB_SOCKET);
                let unreachable = |e: HttpError| {
                    let settings = std::fs::read(dir.join(control::paths::SETTINGS)).ok();
                    let advice = match settings.and_then(|json| Settings::parse(&json).ok()) {
                        Some(Settings { web: false, .. }) => "`web` is off in its settings: ask another node",
                        _ => "is the node running, and may you open its socket?",
                    };
                    ClientError::new("unreachable", format!("{}: {e}; {advice}", socket.display()))
                };
                let request = http::request(method, "localhost", path, None, body).map_err(unreachable)?;
                http::over_unix(socket, request, MOST_BYTES, patience).await.map_err(unreachable)?
            }
            Endpoint::Member { tunnel, name } => {
                let unreachable = |e: HttpError| {
                    ClientError::new("unreachable", format!("the console of node {name}: {e}"))
                };
                let request = http::request(method, name, path, None, body).map_err(unreachable)?;
                let work = async {
                    let stream = put_through(tunnel, name).await?;
                    http::exchange(stream, request, MOST_MEMBER_BYTES).await
                };
                let answered = tokio::time::timeout(patience, work).await;
                answered.unwrap_or(Err(HttpError::Slow(patience))).map_err(unreachable)?
            }
            Endpoint::Https { host, port, authorization, tls, password: _ } => {
                let unreachable =
                    |e: HttpError| ClientError::new("unreachable", format!("https://{host}:{port}: {e}"));
                let authority = format!("{host}:{port}");
                let request = http::request(method, &authority, path, Some(authorization), body)
                    .map_err(unreachable)?;
                let work = async {
                    let stream = dial(host, *port, tls.clone()).await?;
                    http::exchange(stream, request, MOST_BYTES).await
                };
                let answered = tokio::time::timeout(patience, work).await;
                answered.unwrap_or(Err(HttpError::Slow(patience))).map_err(unreachable)?
            }
        };
        if answered.status.is_success() {
            return Ok(answered);
        }
        match serde_json::from_slice::<ErrorBody>(&answered.body) {
            Ok(ErrorBody { error }) => Err(ClientError { kind: error.kind, message: error.message }),
            Err(_) => Err(ClientError::new(
                "internal",
                format!("the console answered {path} with {}", answered.status),
            )),
        }
    }
}

fn rule_path(iqn: &str, pattern: &Pattern) -> String {
    format!("/api/v1/targets/{}/initiators/{}", segment(iqn), segment(pattern.as_str()))
}

/// A connection with the console of member `name`.
async fn put_through(tunnel: &Path, name: &str) -> Result<UnixStream, HttpError> {
    let mut stream = UnixStream::connect(tunnel).await.map_err(HttpError::Connect)?;
    stream.write_all(format!("{name}\n").as_bytes()).await.map_err(HttpError::Connect)?;
    let mut answer = String::new();
    // Byte by byte, as what follows the line is the member's.
    loop {
        match stream.read_u8().await.map_err(HttpError::Connect)? {
            b'\n' => break,
            byte if answer.len() < MOST_ANSWER_BYTES => answer.push(char::from(byte)),
            _ => break,
        }
    }
    if answer == "ok" { Ok(stream) } else { Err(HttpError::Connect(std::io::Error::other(answer))) }
}

async fn dial(
    host: &str,
    port: u16,
    tls: Arc<ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, HttpError> {
    // IPv6 literals stand in brackets in a URL, without them elsewhere.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(|e| HttpError::Broken(e.to_string()))?;
    let stream = TcpStream::connect((bare, port)).await.map_err(HttpError::Connect)?;
    TlsConnector::from(tls).connect(name, stream).await.map_err(HttpError::Connect)
}

fn read<T: DeserializeOwned>(answered: &Answered) -> Result<T, ClientError> {
    serde_json::from_slice(&answered.body)
        .map_err(|e| ClientError::new("internal", format!("the console's answer cannot be read: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_console_needs_https_and_a_whole_fingerprint() {
        let remote = |url: &str, trust| Client::remote(url, "admin", "x", trust).map(|_| ());
        assert!(remote("https://127.0.0.11:8443", Trust::Anyone).is_ok());
        assert!(remote("https://[::1]/", Trust::Fingerprint("ab:".repeat(31) + "CD")).is_ok());
        for url in ["http://h", "h", "https://h/path", ""] {
            assert_eq!(remote(url, Trust::Anyone).unwrap_err().kind, "invalid_url", "{url}");
        }
        assert!(remote("https://h", Trust::Fingerprint("abcd".into())).is_err());
    }
}
