//! What happens while a session opens.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "pair/world.rs"]
mod world;

use futago_replication::*;
use world::{Bytes, World};

/// S7: the bits that the session waits for are those of its beginning: on a busy volume there are always newer ones.
#[test]
fn a_session_opens_while_writes_make_more_dirty() {
    let mut w = World::healthy();
    w.crash(1, || true);
    w.write(0, 1, 1);
    w.run(1500);
    assert!(w.config.in_sync.len() == 1 && w.status(0).serving);
    w.start(1);
    let page = |(token, op): &(DiskToken, DiskOp<Bytes>)| {
        matches!(op, DiskOp::WriteMeta { .. }) && token.0 & 0xffff >= 2
    };
    for _ in 0..1000 {
        if w.nodes[0].pending.iter().any(page) {
            break;
        }
        w.now = w.now + std::time::Duration::from_millis(1);
        for n in 0..2 {
            w.lease(n);
            w.tell_config(n);
            w.event(n, |r, now| r.handle_timeout(now));
            w.deliver(n);
            if !w.nodes[n].pending.is_empty() {
                w.disk(n, 0);
            }
        }
    }
    assert!(w.nodes[0].pending.iter().any(page));
    // In an extent that was not logged when the session began: of those all is dirty anyway.
    let id = w.write(0, 1024, 2);
    while let Some(at) = w.nodes[0].pending.iter().position(|io| !page(io)) {
        w.disk(0, at);
    }
    assert!(w.done(0, id), "answered while the page is being written");
    w.run(1000);
    assert!(w.config.in_sync.len() == 2 && w.equal());
}
