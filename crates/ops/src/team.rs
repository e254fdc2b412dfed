//! The workers behind `Threads`.
//!
//! A loop is a job: a counter from which its caller and the workers take task numbers. The caller works as well, and a
//! task may run a loop of its own. The thread that starts a loop can always finish it alone, so nothing waits for a
//! thread that is not running one of its tasks. Idle workers look for jobs for a while before they sleep. A training
//! step is a chain of loops some ten microseconds apart, and waking a sleeping thread takes longer than many of them.
//! Starting a loop allocates nothing.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Largest number of open loops. Further loops run on their callers alone.
const SLOTS: usize = 16;
/// How long an idle worker looks for work before it sleeps.
const LOOK: Duration = Duration::from_micros(200);

thread_local! {
    /// Whether this thread runs a task.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Whether the caller is part of a task. This is known only under debug assertions.
pub(crate) fn in_task() -> bool {
    cfg!(debug_assertions) && IN_TASK.get()
}

/// Runs a task, or all tasks that a thread takes from a loop.
fn as_task(run: impl FnOnce()) {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            IN_TASK.set(self.0);
        }
    }
    let _before = cfg!(debug_assertions).then(|| Before(IN_TASK.replace(true)));
    run();
}

/// One loop. It is on its caller's stack.
struct Job {
    /// Runs task `i` of the closure behind `data`.
    call: unsafe fn(*const (), usize),
    data: *const (),
    count: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job {
    fn work(&self) {
        let run = || {
            loop {
                let i = self.next.fetch_add(1, Ordering::Relaxed);
                if i >= self.count {
                    return;
                }
                // SAFETY: `data` is the closure that `call` was made for; the caller keeps it until all workers left.
                unsafe { (self.call)(self.data, i) };
            }
        };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| as_task(run))) {
            self.next.store(self.count, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
        }
    }
    fn exhausted(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.count
    }
}

/// A place where a caller publishes its job.
#[repr(align(128))]
struct Slot {
    taken: AtomicBool,
    job: AtomicPtr<Job>,
    /// Number of workers that look at the job or work on it.
    users: AtomicUsize,
}

struct Shared {
    slots: [Slot; SLOTS],
    /// Number of published jobs. Idle workers watch this single cache line.
    open: AtomicUsize,
    sleepers: AtomicUsize,
    /// Number of workers that have started.
    begun: AtomicUsize,
    stop: AtomicBool,
    bed: Mutex<()>,
    bell: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The workers of a pool. Dropping it stops them.
pub(crate) struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of `n` threads, including the caller's.
    pub(crate) fn new(n: usize) -> Self {
        let slot = |_| Slot {
            taken: AtomicBool::new(false),
            job: AtomicPtr::new(ptr::null_mut()),
            users: AtomicUsize::new(0),
        };
        let shared = Arc::new(Shared {
            slots: std::array::from_fn(slot),
            open: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            bed: Mutex::new(()),
            bell: Condvar::new(),
        });
        let start = |i| {
            let shared = shared.clone();
            let worker = std::thread::Builder::new().name(format!("hadal-{i}"));
            worker.spawn(move || shared.serve()).expect("cannot start a thread")
        };
        let workers: Vec<_> = (1..n).map(start).collect();
        // A thread allocates memory when it starts. That must happen now and not in the middle of a step on a busy
        // machine.
        while shared.begun.load(Ordering::Relaxed) < workers.len() {
            std::thread::yield_now();
        }
        Self { shared, workers }
    }

    pub(crate) fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(0)` … `f(n - 1)`, each once.
    pub(crate) fn each<F: Fn(usize) + Sync>(&self, n: usize, f: &F) {
        let free = |s: &&Slot| !s.taken.load(Ordering::Relaxed) && !s.taken.swap(true, Ordering::Acquire);
        let slot = if n <= 1 || self.workers.is_empty() { None } else { self.shared.slots.iter().find(free) };
        let Some(slot) = slot else { return as_task(|| (0..n).for_each(f)) };
        unsafe fn call<F: Fn(usize)>(data: *const (), i: usize) {
            // SAFETY: `data` came from a reference to an F that outlives the job.
            unsafe { (*data.cast::<F>())(i) }
        }
        let data = ptr::from_ref(f).cast();
        let mut job = Job { call: call::<F>, data, count: n, next: AtomicUsize::new(0), panic: Mutex::new(None) };
        let shown: *mut Job = &raw mut job;
        // SAFETY: the job is only used through shared references from here to the end of the wait below.
        let job = unsafe { &*shown };
        // Sequentially consistent with `sleep`: either the sleeper sees this job, or we see the sleeper.
        slot.job.store(shown, Ordering::SeqCst);
        self.shared.open.fetch_add(1, Ordering::SeqCst);
        if self.shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.shared.bed));
            self.shared.bell.notify_all();
        }
        job.work();
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        // Sequentially consistent with `help`: a worker that we do not see here no longer sees the job.
        slot.job.store(ptr::null_mut(), Ordering::SeqCst);
        let mut turns = 0_u32;
        while slot.users.load(Ordering::SeqCst) > 0 {
            turns += 1;
            if turns.is_multiple_of(1 << 14) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        slot.taken.store(false, Ordering::Release);
        if let Some(payload) = lock(&job.panic).take() {
            resume_unwind(payload);
        }
    }
}

impl Shared {
    /// Works on the published jobs. Returns whether there was one.
    fn help(&self) -> bool {
        let mut helped = false;
        for slot in &self.slots {
            if slot.job.load(Ordering::Relaxed).is_null() {
                continue;
            }
            slot.users.fetch_add(1, Ordering::SeqCst);
            // SAFETY: while `users` is not zero the caller keeps a job that it still shows.
            let job = unsafe { slot.job.load(Ordering::SeqCst).as_ref() };
            if let Some(job) = job.filter(|job| !job.exhausted()) {
                job.work();
                helped = true;
            }
            slot.users.fetch_sub(1, Ordering::Release);
        }
        helped
    }

    /// The main loop of a worker.
    fn serve(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        while !self.stop.load(Ordering::Relaxed) {
            let since = Instant::now();
            loop {
                if self.open.load(Ordering::Relaxed) > 0 && self.help() {
                    break;
                }
                for _ in 0..16 {
                    std::hint::spin_loop();
                }
                if since.elapsed() > LOOK {
                    self.sleep();
                    break;
                }
            }
        }
    }

    fn sleep(&self) {
        let mut bed = lock(&self.bed);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.open.load(Ordering::SeqCst) == 0 && !self.stop.load(Ordering::Relaxed) {
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        {
            let _bed = lock(&self.shared.bed);
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        self.shared.bell.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so it ends normally.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_also_nested_and_from_many_callers() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        for round in 0..300 {
                            let hits: Vec<AtomicUsize> = (0..40).map(|_| AtomicUsize::new(0)).collect();
                            team.each(8, &|i| {
                                team.each(5, &|j| {
                                    hits[i * 5 + j].fetch_add(1, Ordering::Relaxed);
                                });
                            });
                            assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1), "round {round}");
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let team = Team::new(3);
        for _ in 0..5 {
            std::thread::sleep(4 * LOOK);
            // Both tasks must be running at the same time.
            let barrier = std::sync::Barrier::new(2);
            team.each(2, &|_| {
                barrier.wait();
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_team_usable() {
        let team = Team::new(2);
        for _ in 0..20 {
            let result = catch_unwind(AssertUnwindSafe(|| team.each(10, &|i| assert!(i != 7, "task seven"))));
            let payload = result.expect_err("must panic");
            assert!(payload.downcast_ref::<&str>().is_some_and(|m| m.contains("task seven")));
        }
        let sum = AtomicUsize::new(0);
        team.each(10, &|i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}
