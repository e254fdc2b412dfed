//! A server's life: it binds, serves, and ends when it has finished what it accepted.

use crate::app::{App, MOST, ServeOptions};
use crate::chat::ChatFormat;
use crate::{listen, routes};
use hadal_infer::Loaded;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Threads for HTTP. The engine has its own.
const THREADS: usize = 2;
/// Time for clients to read what is left at the end.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Why a server does not start, or ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be used.
    #[error("cannot listen on {address}: {error}; choose another --port or --host")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// Something is given that is not an origin.
    #[error("`{0}` is not an origin: give it as https://example.org, without a path")]
    Origin(String),
    /// The system lacks something.
    #[error("the server cannot start: {0}")]
    Start(std::io::Error),
    /// The engine has ended by itself.
    #[error("the engine has ended because of a mistake in the program; its message is above")]
    Engine,
}

/// A server that runs.
pub struct Server {
    runtime: Runtime,
    app: Arc<App>,
    address: SocketAddr,
    closing: watch::Sender<bool>,
    connections: JoinHandle<()>,
}

impl Server {
    /// Starts to serve a model. Port 0 takes a free one. Without a format of conversations, there are completions alone.
    pub fn start(
        loaded: Loaded,
        chat: Option<Box<dyn ChatFormat>>,
        address: SocketAddr,
        options: ServeOptions,
    ) -> Result<Self, ServeError> {
        let origins = routes::cors(&options.origins).map_err(ServeError::Origin)?;
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).thread_name("http").enable_all().build();
        let runtime = runtime.map_err(ServeError::Start)?;
        let bind = |error| ServeError::Bind { address, error };
        let listener = runtime.block_on(TcpListener::bind(address)).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let most = options.connections.clamp(1, MOST);
        let app = App::new(Arc::new(loaded), chat, options).map_err(ServeError::Start)?;
        let app = Arc::new(app);
        let (closing, closed) = watch::channel(false);
        let connections = runtime.spawn(listen::serve(listener, routes::router(&app, origins), most, closed));
        Ok(Self { runtime, app, address, closing, connections })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `end`. Then it finishes what it has accepted, takes nothing new, and returns.
    ///
    /// # Errors
    /// If the engine ends before.
    pub fn wait(self, end: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { runtime, app, closing, connections, .. } = self;
        let ended = runtime.block_on(async {
            let by_itself = tokio::select! {
                () = end => false,
                () = app.worker.ended() => true,
            };
            drain(&app, &closing, connections).await;
            by_itself
        });
        // A grammar may still be in the making for a client that has gone.
        runtime.shutdown_background();
        if ended { Err(ServeError::Engine) } else { Ok(()) }
    }
}

/// Ends a server.
async fn drain(app: &App, closing: &watch::Sender<bool>, connections: JoinHandle<()>) {
    app.draining.store(true, Relaxed);
    tracing::info!(running = app.most() - app.slots.available_permits(), "shutting down");
    // All places are free when the engine has nothing left. Meanwhile, new requests hear that the server is going.
    let idle = app.slots.acquire_many(app.most() as u32);
    if app.worker.is_alive() && timeout(app.options.drain, idle).await.is_err() {
        tracing::warn!("what was not finished in time is stopped");
        app.worker.stop();
    }
    closing.send_replace(true);
    if timeout(LAST_WORDS, connections).await.is_err() {
        tracing::warn!("some clients did not read the end of their answers");
    }
    app.worker.stop();
    app.worker.ended().await;
}

/// Listens for SIGTERM and Ctrl-C from now on. What it returns waits for the first of them. A second one ends the process
/// at once.
///
/// # Panics
/// Outside of a runtime: call it in what is given to [`Server::wait`].
pub fn signals() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        let (Ok(mut term), Ok(mut interrupt)) = signals else {
            tracing::warn!("signals cannot be heard: the process ends without finishing what it accepted");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(1);
        });
    }
}
