//! In steady state the target allocates nothing per command: its thread is counted while a load runs.
#![expect(unsafe_code, reason = "a global allocator is unsafe to write")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::bare::Bare;
use crate::load::{Address, Client};
use crate::{WORKLOADS, file_target};

/// The system's allocator; counts what the threads under [`COUNTED`] ask for.
struct Counting;

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    if COUNTED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to `System` with the caller's own arguments; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the service's clock may allocate each half second: not per command.
const PER_TICK: u64 = 8;

#[test]
fn no_command_allocates_in_steady_state() {
    const SPAN_BYTES: u64 = 32 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    drop(Bare::create(&path, SPAN_BYTES).unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        COUNTED.set(true);
        file_target::run(&path, move |address| tell.send(address).unwrap()).unwrap();
    });
    let portal = told.recv_timeout(Duration::from_secs(20)).unwrap();
    let address = Address { portal, iqn: Some(file_target::IQN.into()), lun: 0 };
    let mut client = Client::open(&address).unwrap();
    client.fill(SPAN_BYTES).unwrap();
    for workload in WORKLOADS {
        let mut load = |seconds| {
            let limit = Duration::from_secs_f64(seconds);
            client.run(&workload, SPAN_BYTES, limit, &mut || {}).unwrap().operations
        };
        load(0.3);
        let (before, start) = (ALLOCATIONS.load(Ordering::Relaxed), Instant::now());
        let operations = load(0.3);
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        let ticks = u64::try_from(start.elapsed().as_millis() / 500).unwrap() + 1;
        eprintln!("{}: {allocations} allocations in {operations} commands", workload.name);
        assert!(operations > 20, "{}: {operations} commands say nothing", workload.name);
        assert!(
            allocations <= ticks * PER_TICK,
            "{}: {allocations} allocations in {operations} commands",
            workload.name
        );
    }
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 100, "the target's start is counted");
}
