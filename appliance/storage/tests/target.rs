//! The iSCSI service on a memory backend, against a small initiator over loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod copies;
mod initiator;
mod ram;

use base::{ClusterId, VolumeId};
use control::names::Pattern;
use control::targets::{Access, Chap, Rule, Secret};
use disk::{BufferPool, PoolLimits};
use futago_storage::target::{Limits, Lun, Service, TargetConfig};
use initiator::*;
use iscsi::pdu::*;
use ram::RamBackend;
use scsi::UnitConfig;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;

const VOLUME: VolumeId = VolumeId(7);
const MIB: u64 = 64;

struct World {
    service: Service,
    backend: Rc<RamBackend>,
    address: SocketAddr,
}

fn config(chap: Option<Chap>, blocks: u64) -> TargetConfig {
    let unit = UnitConfig::new(ClusterId(1), VOLUME, blocks);
    let access = Access { rules: Vec::new(), chap };
    TargetConfig { iqn: TARGET.into(), luns: BTreeMap::from([(0, unit.into())]), access }
}

fn test<F: Future<Output = ()>>(run: impl FnOnce(World) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let buffers = BufferPool::new(PoolLimits::default());
        let backend = Rc::new(RamBackend::new(buffers.clone()));
        backend.add(VOLUME, MIB << 20);
        let service = Service::new(Limits::default(), buffers, backend.clone());
        backend.attach(service.clone());
        service.set_targets(&[config(None, MIB << 11)]);
        service.start("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = service.address().unwrap();
        run(World { service, backend, address }).await;
    });
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| ((at / 511 + at + seed) & 0xff) as u8).collect()
}

/// Waits until the service's tasks have nothing left to do.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[test]
fn data_of_every_size_comes_back() {
    test(|world| async move {
        let mut initiator = Initiator::login(world.address, 1).await.ready().await;
        // 32 MiB is a command that UEFI firmware sends; it is split on its way to the backend.
        for (seed, blocks) in [(1, 1_u32), (2, 8), (3, 129), (4, 2048), (5, 65_536)] {
            let data = pattern(blocks as usize * 512, seed);
            let done = initiator.run(write16(16, blocks), 0, &data).await;
            assert_eq!((done.status, done.residual), (0, 0));
            assert_eq!(world.backend.bytes(VOLUME, 8192, data.len()), data);
            let done = initiator.run(read16(16, blocks), blocks * 512, b"").await;
            assert_eq!((done.status, done.residual), (0, 0));
            assert!(done.data == data);
        }
    });
}

#[test]
fn compare_and_write_is_one_step() {
    test(|world| async move {
        let mut initiator = Initiator::login(world.address, 1).await.ready().await;
        let new = pattern(512, 9);
        let swap = [vec![0; 512], new.clone()].concat();
        assert_eq!(initiator.run(compare_and_write(4, 1), 0, &swap).await.status, 0);
        assert_eq!(world.backend.bytes(VOLUME, 2048, 512), new);
        let done = initiator.run(compare_and_write(4, 1), 0, &swap).await;
        assert_eq!(done.sense, [0xe, 0x1d, 0]);
        assert_eq!(world.backend.bytes(VOLUME, 2048, 512), new);
    });
}

#[test]
fn after_a_stop_nothing_is_sent_and_the_port_is_free() {
    test(|world| async move {
        let mut initiator = Initiator::login(world.address, 1).await.ready().await;
        world.backend.hold(true);
        initiator.start(write16(0, 1), 0, 0, &pattern(512, 1)).await;
        settle().await;
        assert_eq!((world.backend.held(), world.service.sessions().len()), (1, 1));
        world.service.stop();
        assert_eq!((world.service.address(), world.service.sessions().len()), (None, 0));
        // Another process may bind at once (here: another socket).
        let other = tokio::net::TcpSocket::new_v4().unwrap();
        other.set_reuseaddr(true).unwrap();
        other.bind(world.address).unwrap();
        drop(other);
        world.backend.hold(false);
        initiator.assert_gone().await;
        world.service.start(world.address).unwrap();
        Initiator::login(world.address, 1).await.ready().await;
    });
}

#[test]
fn an_unserved_volume_drops_the_connection_instead_of_an_answer() {
    test(|world| async move {
        let mut initiator = Initiator::login(world.address, 1).await.ready().await;
        world.backend.refuse();
        initiator.start(read16(0, 8), 0, 4096, b"").await;
        initiator.assert_gone().await;
    });
}

#[test]
fn a_reinstated_session_ends_the_old_one() {
    test(|world| async move {
        let mut old = Initiator::login(world.address, 1).await.ready().await;
        let mut other = Initiator::login(world.address, 2).await.ready().await;
        world.backend.hold(true);
        old.start(write16(0, 1), 0, 0, &pattern(512, 1)).await;
        settle().await;
        let mut new = Initiator::login(world.address, 1).await;
        old.assert_gone().await;
        world.backend.hold(false);
        assert_eq!(new.run([0; 16], 0, b"").await.sense, [6, 0x29, 0]);
        assert_eq!(other.run([0; 16], 0, b"").await.status, 0);
        assert_eq!(world.service.sessions().len(), 2);
    });
}

#[test]
fn a_lun_reset_waits_for_the_writes_of_other_sessions() {
    test(|world| async move {
        let mut writer = Initiator::login(world.address, 1).await.ready().await;
        let mut resetter = Initiator::login(world.address, 2).await.ready().await;
        world.backend.hold(true);
        writer.start(write16(0, 1), 0, 0, &pattern(512, 1)).await;
        settle().await;
        resetter.manage(TaskFunction::LogicalUnitReset, NO_TAG).await;
        let early = tokio::time::timeout(Duration::from_millis(200), resetter.receive()).await;
        assert!(early.is_err(), "answered before the write had settled: {early:?}");
        world.backend.hold(false);
        let (Reply::TaskManagement(response), _) = resetter.receive().await.unwrap() else { panic!() };
        assert_eq!(response.response, TaskResult::Complete.code());
        // The write was done, its initiator hears of the reset instead of a response.
        assert_eq!(world.backend.bytes(VOLUME, 0, 512), pattern(512, 1));
        assert_eq!(writer.run([0; 16], 0, b"").await.sense[..2], [6, 0x29]);
    });
}

#[test]
fn a_cold_reset_ends_every_session() {
    test(|world| async move {
        let mut one = Initiator::login(world.address, 1).await;
        let mut two = Initiator::login(world.address, 2).await;
        one.manage(TaskFunction::TargetColdReset, NO_TAG).await;
        assert!(matches!(one.receive().await, Some((Reply::TaskManagement(_), _))));
        one.assert_gone().await;
        two.assert_gone().await;
    });
}

#[test]
fn a_resize_is_told_by_a_unit_attention() {
    test(|world| async move {
        let mut initiator = Initiator::login(world.address, 1).await.ready().await;
        world.service.set_targets(&[config(None, MIB << 10)]);
        assert_eq!(initiator.run([0; 16], 0, b"").await.sense, [6, 0x2a, 9]);
        assert_eq!(initiator.run(read16(MIB << 10, 1), 512, b"").await.sense, [5, 0x21, 0]);
        world.service.set_targets(&[]);
        initiator.assert_gone().await;
    });
}

#[test]
fn an_unknown_target_is_refused() {
    test(|world| async move {
        let mut initiator = Initiator::connect(world.address).await;
        let text = "InitiatorName=iqn.2026-11.x:i\0TargetName=iqn.2026-11.x:other\0";
        let (response, _) = initiator.log_in(1, 0b0111, text).await.unwrap();
        assert_eq!(response.status, LoginStatus::NotFound.code());
        initiator.assert_gone().await;
    });
}

#[test]
fn idle_connections_do_not_hinder_a_login() {
    test(|world| async move {
        let mut idle = Vec::new();
        for _ in 0..500 {
            idle.push(TcpStream::connect(world.address).await.unwrap());
        }
        Initiator::login(world.address, 1).await.ready().await;
    });
}

#[test]
fn a_flood_from_one_address_leaves_a_slow_login_from_another_alone() {
    test(|world| async move {
        let mut slow = Initiator::connect(world.address).await;
        let mut flood = Vec::new();
        for _ in 0..500 {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
            flood.push(socket.connect(world.address).await.unwrap());
        }
        let names = format!("InitiatorName=iqn.2026-11.x:i\0TargetName={TARGET}\0");
        let (response, _) = slow.log_in(1, 0b0111, &names).await.expect("it gave way to the flood");
        assert_eq!(response.status, 0);
        // Whoever floods has lost the first of its own.
        let mut byte = [0];
        let ended = tokio::io::AsyncReadExt::read(&mut flood[0], &mut byte).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    });
}

#[test]
fn a_secret_is_asked_for() {
    test(|world| async move {
        let chap = Chap { user: "user".into(), secret: Secret::new("secret".into()), mutual: None };
        world.service.set_targets(&[config(Some(chap), MIB << 11)]);
        let names = format!("InitiatorName=iqn.2026-11.x:i\0TargetName={TARGET}\0");
        let mut none = Initiator::connect(world.address).await;
        let (response, _) = none.log_in(1, 0b0111, &names).await.unwrap();
        assert_eq!(response.status, LoginStatus::AuthenticationFailure.code());
        let mut wrong = Initiator::connect(world.address).await;
        let text = format!("{names}AuthMethod=CHAP\0");
        let (_, text) = wrong.log_in(1, 0b0011, &text).await.unwrap();
        assert!(text.contains("AuthMethod=CHAP"));
        let (_, text) = wrong.log_in(1, 0b0011, "CHAP_A=5\0").await.unwrap();
        assert!(text.contains("CHAP_C=0x"));
        let (response, _) = wrong.log_in(1, 0b0011, "CHAP_N=user\0CHAP_R=0x00\0").await.unwrap();
        assert_eq!(response.status, LoginStatus::AuthenticationFailure.code());
    });
}

/// What is logged at WARN, a line each.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn refused_logins_are_told_with_name_address_and_reason_but_not_each() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let told = warnings.0.clone();
    test(|world| async move {
        let chap = Chap { user: "user".into(), secret: Secret::new("secret".into()), mutual: None };
        world.service.set_targets(&[config(Some(chap), MIB << 11)]);
        for number in 0..20 {
            let names = format!("InitiatorName=iqn.2026-11.x:I{}\0TargetName={TARGET}\0", number / 10);
            let mut wrong = Initiator::connect(world.address).await;
            let begin = format!("{names}AuthMethod=CHAP\0");
            wrong.log_in(1, 0b0011, &begin).await.unwrap();
            wrong.log_in(1, 0b0011, "CHAP_A=5\0").await.unwrap();
            let (response, _) = wrong.log_in(1, 0b0011, "CHAP_N=user\0CHAP_R=0x00\0").await.unwrap();
            assert_eq!(response.status, LoginStatus::AuthenticationFailure.code());
        }
    });
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    for part in ["login refused", "\"iqn.2026-11.x:i0\"", TARGET, "address=127.0.0.1:", "another CHAP secret"]
    {
        assert!(told[0].contains(part), "{part}: {told:?}");
    }
}

/// Only those whom a pattern covers may log in.
fn only(patterns: &[&str]) -> TargetConfig {
    let rule = |text: &&str| Rule { pattern: Pattern::typed(text), chap: None };
    let access = Access { rules: patterns.iter().map(rule).collect(), chap: None };
    TargetConfig { access, ..config(None, MIB << 11) }
}

#[test]
fn a_rule_that_goes_ends_the_sessions_that_it_let_in() {
    test(|world| async move {
        // Names are the same whatever their case.
        let mut one = Initiator::login_as(world.address, 1, "IQN.2026-11.x:One").await.ready().await;
        let mut two = Initiator::login_as(world.address, 1, "iqn.2026-11.x:two").await.ready().await;
        world.service.set_targets(&[only(&["iqn.2026-11.x:one"])]);
        assert_eq!(one.run([0; 16], 0, b"").await.status, 0);
        two.assert_gone().await;
        let sessions = world.service.sessions();
        assert_eq!((sessions.len(), sessions[0].initiator.as_str()), (1, "iqn.2026-11.x:one"));

        let mut two = Initiator::connect(world.address).await;
        let names = format!("InitiatorName=iqn.2026-11.x:two\0TargetName={TARGET}\0");
        let (response, _) = two.log_in(1, 0b0111, &names).await.unwrap();
        assert_eq!(response.status, 0x0202);
        two.assert_gone().await;
        world.service.set_targets(&[only(&["*"])]);
        Initiator::login_as(world.address, 1, "iqn.2026-11.x:two").await.ready().await;
        assert_eq!(one.run([0; 16], 0, b"").await.status, 0);
    });
}

#[test]
fn a_rule_that_goes_in_the_midst_of_a_login_refuses_it() {
    test(|world| async move {
        let mut late = Initiator::connect(world.address).await;
        let names = format!("InitiatorName=iqn.2026-11.x:two\0TargetName={TARGET}\0AuthMethod=None\0");
        let (response, _) = late.log_in(1, 0b0001, &names).await.unwrap();
        assert_eq!((response.status, response.stages & 3), (0, 1));
        world.service.set_targets(&[only(&["*:one"])]);
        let (response, _) = late.log_in(1, 0b0111, "").await.unwrap();
        assert_eq!(response.status, 0x0202);
        assert!(world.service.is_idle());
    });
}

#[test]
fn discovery_tells_only_what_may_be_used() {
    test(|world| async move {
        let other =
            TargetConfig { iqn: "iqn.2026-11.x:other".into(), luns: BTreeMap::new(), ..only(&["*:a"]) };
        world.service.set_targets(&[only(&["*:b"]), other]);
        for (name, told) in [("a", "iqn.2026-11.x:other"), ("b", TARGET)] {
            let mut initiator = Initiator::connect(world.address).await;
            let text = format!("InitiatorName=iqn.2026-11.x:{name}\0SessionType=Discovery\0");
            assert_eq!(initiator.log_in(1, 0b0111, &text).await.unwrap().0.status, 0);
            let request = TextRequest {
                immediate: true,
                last: true,
                initiator_task_tag: 1,
                target_transfer_tag: NO_TAG,
                cmd_sn: 1,
                ..TextRequest::default()
            };
            initiator.send(request.encode(), b"SendTargets=All\0").await;
            let (_, data) = initiator.receive().await.unwrap();
            let address = world.address;
            let expected = format!("TargetName={told}\0TargetAddress={address},1\0");
            assert_eq!(String::from_utf8(data).unwrap(), expected);
        }
    });
}

#[test]
fn luns_are_masked_and_write_protected_in_use() {
    let shown = |patterns: &[&str], read_only| {
        let unit = UnitConfig { read_only, ..UnitConfig::new(ClusterId(1), VOLUME, MIB << 11) };
        let lun = Lun { unit, initiators: patterns.iter().map(|text| Pattern::typed(text)).collect() };
        TargetConfig { luns: BTreeMap::from([(0, lun)]), ..config(None, MIB << 11) }
    };
    test(|world| async move {
        let mut one = Initiator::login_as(world.address, 1, "iqn.2026-11.x:one").await.ready().await;
        let mut two = Initiator::login_as(world.address, 1, "iqn.2026-11.x:two").await.ready().await;
        // RESERVE(6) by one: it outlives what happens to others.
        let mut reserve = [0; 16];
        reserve[0] = 0x16;
        assert_eq!(one.run(reserve, 0, b"").await.status, 0);
        world.service.set_targets(&[shown(&["*:one"], true)]);
        assert_eq!(two.run([0; 16], 0, b"").await.sense, [5, 0x25, 0]);
        two.manage(TaskFunction::LogicalUnitReset, NO_TAG).await;
        let (Reply::TaskManagement(answer), _) = two.receive().await.unwrap() else { panic!() };
        assert_eq!(answer.response, TaskResult::NoLun.code());
        assert_eq!(one.run(write16(0, 1), 0, &[0; 512]).await.sense, [6, 0x2a, 1]);
        assert_eq!(one.run(write16(0, 1), 0, &[0; 512]).await.sense, [7, 0x27, 0]);
        world.service.set_targets(&[shown(&[], false)]);
        assert_eq!(one.run([0; 16], 0, b"").await.sense, [6, 0x2a, 1]);
        assert_eq!(one.run(write16(0, 1), 0, &[0; 512]).await.status, 0);
        assert_eq!(two.run([0; 16], 0, b"").await.sense, [6, 0x29, 0]);
        assert_eq!(two.run([0; 16], 0, b"").await.sense, [6, 0x3f, 0x0e]);
        assert_eq!(two.run(read16(0, 1), 512, b"").await.status, 0x18, "reserved by one still");
    });
}

#[test]
fn initiators_are_asked_to_log_out_before_a_move() {
    test(|world| async move {
        let mut initiator = Initiator::login(world.address, 1).await.ready().await;
        world.service.request_logout(5);
        let (Reply::Async(message), _) = initiator.receive().await.unwrap() else { panic!() };
        assert_eq!((message.event, message.parameter3), (AsyncEvent::RequestLogout.code(), 5));
        // Until the move they are served; who comes now waits.
        assert_eq!(initiator.run([0; 16], 0, b"").await.status, 0);
        assert!(world.service.is_moving() && !world.service.is_idle());
        let next = tokio::task::spawn_local(Initiator::login(world.address, 2));
        settle().await;
        assert_eq!(world.service.sessions().len(), 1);
        // The move fails: everyone gets in again.
        world.service.resume();
        next.await.unwrap().ready().await;
        assert_eq!(world.service.sessions().len(), 2);
        // It comes to pass: the port is closed, and open for all at the next start.
        world.service.request_logout(5);
        world.service.stop();
        assert!(!world.service.is_moving() && world.service.is_idle());
        world.service.start(world.address).unwrap();
        Initiator::login(world.address, 1).await.ready().await;
    });
}

#[test]
fn noise_ends_only_its_own_connection() {
    use tokio::io::AsyncWriteExt;
    test(|world| async move {
        let mut good = Initiator::login(world.address, 1).await.ready().await;
        for seed in 0..50 {
            let mut noisy = TcpStream::connect(world.address).await.unwrap();
            let _ = noisy.write_all(&pattern(5000, seed * 37)).await;
        }
        assert_eq!(good.run([0; 16], 0, b"").await.status, 0);
    });
}

/// What a host was still to write when it lost the unit must not land after what the next owner writes.
#[test]
fn a_unit_that_is_masked_amid_a_long_write_gets_no_more_of_it() {
    test(|world| async move {
        const LEN: usize = 40 << 20;
        const PART: usize = 8 << 20;
        let mut initiator = Initiator::login(world.address, 1).await.ready().await;
        world.backend.hold(true);
        let data = vec![0xa5; LEN];
        let tag = initiator.start(write16(0, (LEN / 512) as u32), 0, 0, &data).await;
        let writing = tokio::task::spawn_local(async move { initiator.finish(tag, &data).await });
        while world.backend.held() < 4 {
            settle().await;
        }
        let mut masked = config(None, MIB << 11);
        let unit = UnitConfig::new(ClusterId(1), VOLUME, MIB << 11);
        masked.luns.insert(0, Lun { unit, initiators: vec![Pattern::typed("iqn.2026-01.test:nobody")] });
        world.service.set_targets(&[masked]);
        world.backend.hold(false);
        let done = writing.await.unwrap().unwrap();
        assert_eq!(done.sense, [0xb, 0x3f, 0x0e]);
        assert!(world.backend.bytes(VOLUME, 0, 4 * PART).iter().all(|&byte| byte == 0xa5), "what was out");
        assert!(world.backend.bytes(VOLUME, 4 * PART, PART).iter().all(|&byte| byte == 0), "no more");
    });
}
