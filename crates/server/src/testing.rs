//! A service for tests of HTTP alone: a real engine and a real store on a machine that can launch nothing.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use axum::{body::Body, extract::Request, response::Response};
use caisson_core::{AgentStream, Backend, BackendError, Death, Files, Observed, SandboxId, SandboxSpec, Usage};
use caisson_engine::{Engine, EngineConfig};
use caisson_store::Sqlite;
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    app::{App, Service},
    auth::{Auth, hash},
    config::Config,
    server::{BindError, Server},
};

pub(crate) const KEY: &str = "the key of the tests";

/// A machine without anything that sandboxes are made of.
struct Bare;

#[async_trait]
impl Backend for Bare {
    fn name(&self) -> &'static str {
        "bare"
    }

    fn probe(&self) -> &'static [u8] {
        b"#!/bin/false\n"
    }

    async fn launch(&self, _: SandboxId, _: &SandboxSpec, _: Files) -> Result<AgentStream, BackendError> {
        Err(BackendError::Unsupported("there is nothing to make sandboxes of".to_owned()))
    }

    async fn destroy(&self, _: SandboxId) -> Result<(), BackendError> {
        Ok(())
    }

    async fn death(&self, _: SandboxId) -> Option<Death> {
        None
    }

    async fn usage(&self, _: SandboxId) -> Option<Usage> {
        None
    }

    async fn list(&self) -> Result<Vec<Observed>, BackendError> {
        Ok(Vec::new())
    }

    async fn shutdown(&self) {}
}

/// The service and what it stands on.
pub(crate) struct Bench {
    service: Service,
    engine: Engine,
    _data: TempDir,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with_body_limit(1000).await
    }

    /// One that takes bodies of ordinary size.
    pub(crate) async fn roomy() -> Self {
        Self::with_body_limit(1 << 20).await
    }

    async fn with_body_limit(body_limit: usize) -> Self {
        let data = TempDir::new().expect("a temporary directory can be made");
        let store = Sqlite::open(&data.path().join("caisson.db")).await.expect("a database can be made");
        let config = EngineConfig::new(data.path().to_owned());
        let engine = Engine::open(config, Arc::new(Bare), Arc::new(store)).await.expect("an engine starts on nothing");
        let service = Service::new(app(&engine, Auth::Keys(vec![hash(KEY.as_bytes())]), body_limit));
        Self { service, engine, _data: data }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The same engine behind another door.
    pub(crate) fn app(&self, auth: Auth) -> Arc<App> {
        app(&self.engine, auth, 1000)
    }

    /// Listens on a real socket, with short times, until the bench is dropped.
    pub(crate) async fn listen(&self) -> SocketAddr {
        self.listen_with(|_| {}).await
    }

    /// The same with other figures.
    pub(crate) async fn listen_with(&self, change: impl FnOnce(&mut Config)) -> SocketAddr {
        let mut config = Config::new(vec![(Ipv4Addr::LOCALHOST, 0).into()], Auth::Keys(vec![hash(KEY.as_bytes())]));
        config.body_limit = 1000;
        config.head_within = Duration::from_millis(500);
        config.body_stall = Duration::from_millis(300);
        change(&mut config);
        let server = Server::bind(config, self.engine.clone()).await.expect("there are free ports");
        let address = server.addresses()[0];
        tokio::spawn(server.serve(std::future::pending()));
        address
    }

    /// Takes addresses for a server that is not begun.
    pub(crate) async fn bind(&self, config: Config) -> Result<Server, BindError> {
        Server::bind(config, self.engine.clone()).await
    }

    pub(crate) async fn send(&self, request: Request) -> Answer {
        let peer = "192.0.2.1:1".parse().expect("it is an address");
        let response: Response = self.service.clone().answer(peer, request).await;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.expect("the body ends well").to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, text: String::from_utf8_lossy(&bytes).into_owned() }
    }

    /// Every path of the router, as the router itself tells it.
    pub(crate) fn paths(&self) -> Vec<String> {
        let told = format!("{:?}", self.service);
        told.split('"').filter(|text| text.starts_with('/') && !text.contains(',')).map(str::to_owned).collect()
    }

    /// With the key.
    pub(crate) async fn ask(&self, method: &str, target: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(target).header("x-api-key", KEY);
        self.send(request.body(Body::from(body.to_owned())).expect("it is a request")).await
    }
}

fn app(engine: &Engine, auth: Auth, body_limit: usize) -> Arc<App> {
    let mut config = Config::new(Vec::new(), auth);
    config.body_limit = body_limit;
    Arc::new(App::new(engine.clone(), config))
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// The code of an error.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text));
        assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        body["error"]["code"].as_str().expect("errors have a code").to_owned()
    }
}
