//! The harness: starts the real `caisson` program on the real kernel and proves afterwards that the host is as it was before.
//!
//! Suites are in `tests/`, programs that attack from inside in `probes/`. Nothing is skipped: what a test needs and the host lacks fails
//! with the name of the package, unless `CAISSON_WITHOUT` names it for a machine that is not meant to have it. The program is found beside
//! the test or in `CAISSON_PROGRAM`; `CAISSON_TEST_DATABASE=postgres` has every server keep its records there, `CAISSON_TEST_LOCKS=redis` its locks; `CAISSON_SLOWER`
//! stretches every allowance on slow machines and shrinks counts that mean no more than *many*. As the checks look at the whole host, a
//! suite runs one test at a time.

mod archive;
mod certificates;
mod client;
mod clock;
mod context;
mod descriptors;
pub mod docker;
mod docker_registry;
mod events;
mod home;
mod host;
pub mod postgres;
mod probe;
mod process;
#[cfg(test)]
mod promises;
mod proxy;
mod receiver;
pub mod redis;
mod s3;
mod sandbox;
mod screen;
mod server;
mod shortage;
mod websocket;

pub use archive::{Archive, octal};
pub use certificates::{make_certificates, make_certificates_of};
pub use client::{
    Answer, Body, Client, MULTIPART_FORM, Request, Streaming, encode_path, foreign_key, is_foreign, is_of_boxbox, is_of_daiv,
    multipart_form, raw, raw_request,
};
pub use clock::{allowed, eventually, fewer};
pub use context::{Context, error, text};
pub use descriptors::Descriptors;
pub use docker_registry::{DockerRegistry, Ended, run_tool, skopeo};
pub use events::{Event, Events};
pub use home::{Home, Ran, meant_to_lack, needs, program};
pub use host::{Host, may_set_the_order};
pub use probe::{UNTIL_REFUSED, on_host, probe, probe_in};
pub use process::{Process, kill_nine, signal};
pub use proxy::Proxy;
pub use receiver::{Message, Receiver, Reply};
pub use s3::{Fault, FaultyLine, S3Kind, S3Server, with_s3};
pub use sandbox::Sandbox;
pub use screen::Screen;
pub use server::{Server, Setup};
pub use shortage::{Shortage, SmallDisk};
pub use websocket::{Heard, NoUpgrade, Socket, Typist, descriptors, descriptors_come_back};

pub use base64::{Engine as Base64Engine, engine::general_purpose::STANDARD as BASE64};
pub use serde_json::{Value, json};
