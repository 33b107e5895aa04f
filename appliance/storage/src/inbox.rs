//! Everything that happens to the engine, in one queue.
//!
//! The engine is owned by one task. Connections, the link and timers never touch it: they push an input and wake
//! the task, so no borrow is ever nested and every turn handles what has gathered in one batch.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::Notify;

/// A single-threaded queue with a wake-up.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    shared: Rc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    queue: RefCell<VecDeque<T>>,
    wake: Notify,
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Self {
        Self { shared: Rc::new(Shared { queue: RefCell::new(VecDeque::new()), wake: Notify::new() }) }
    }

    /// Adds an input and wakes the owner.
    pub(crate) fn push(&self, input: T) {
        self.shared.queue.borrow_mut().push_back(input);
        self.shared.wake.notify_one();
    }

    /// The oldest input, if any.
    pub(crate) fn pop(&self) -> Option<T> {
        self.shared.queue.borrow_mut().pop_front()
    }

    /// Inputs that wait.
    pub(crate) fn len(&self) -> usize {
        self.shared.queue.borrow().len()
    }

    /// Waits until something was pushed since the last wait.
    pub(crate) async fn ready(&self) {
        if self.len() == 0 {
            self.shared.wake.notified().await;
        }
    }
}
