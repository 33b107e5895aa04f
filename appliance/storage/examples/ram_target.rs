//! The iSCSI service on memory alone, to run public initiators and benchmarks against.
//!
//! `ram_target [--bind ADDRESS:PORT] [--size MIB] [--luns N] [--user NAME --password SECRET]`
//! shows LUN 0 (and more) of `iqn.2026-11.local.futago:ram` until it is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use base::{ClusterId, VolumeId};
use control::targets::{Access, Chap, Login, Secret};
use disk::{BufferPool, PoolLimits};
use futago_storage::target::{Limits, Lun, Service, TargetConfig};
use scsi::UnitConfig;
use std::collections::BTreeMap;
use std::rc::Rc;

#[path = "../tests/ram/mod.rs"]
mod ram;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| arguments.iter().position(|a| a == name).map(|at| arguments[at + 1].clone());
    let bind = option("--bind").unwrap_or_else(|| "127.0.0.1:3260".into()).parse().expect("address");
    let mib: u64 = option("--size").map_or(64, |size| size.parse().expect("MiB"));
    let luns: u16 = option("--luns").map_or(1, |luns| luns.parse().expect("count"));
    let chap = option("--user").zip(option("--password")).map(|(user, secret)| Chap {
        user,
        secret: Secret::new(secret),
        mutual: option("--target-user")
            .zip(option("--target-password"))
            .map(|(user, secret)| Login { user, secret: Secret::new(secret) }),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let buffers = BufferPool::new(PoolLimits { in_use_bytes: 1 << 30, cached_bytes: 256 << 20 });
        let backend = Rc::new(ram::RamBackend::new(buffers.clone()));
        let service = Service::new(Limits::default(), buffers, backend.clone());
        backend.attach(service.clone());
        let units = (0..luns).map(|lun| {
            let volume = VolumeId(u64::from(lun) + 1);
            backend.add(volume, mib << 20);
            let thin = UnitConfig { thin: true, ..UnitConfig::new(ClusterId(1), volume, mib << 11) };
            (lun, thin.into())
        });
        let luns: BTreeMap<u16, Lun> = units.collect();
        service.set_targets(&[TargetConfig {
            iqn: "iqn.2026-11.local.futago:ram".into(),
            luns,
            access: Access { rules: Vec::new(), chap },
        }]);
        service.start(bind).expect("bind");
        println!("READY {}", service.address().unwrap());
        std::future::pending::<()>().await;
    });
}
