//! Directories and whole trees.

use std::time::Duration;

use caisson_core::{FileStat, Unpacked};
use caisson_wire::{self as wire, path::encode};
use http::Method;

use super::{ANSWER_WITHIN, AgentClient, AgentError, LOOK_WITHIN, SMALL_ANSWER, convert, empty, files::content};
use crate::request::ByteStream;

/// How long an agent may take to copy: all that a sandbox's disk can hold.
const COPIED_WITHIN: Duration = Duration::from_secs(600);

impl AgentClient {
    pub(crate) async fn make_directory(&self, path: &[u8], parents: bool, mode: Option<u32>) -> Result<(FileStat, bool), AgentError> {
        let mut uri = format!("/mkdir?path={}&parents={parents}", encode(path));
        if let Some(mode) = mode {
            uri.push_str(&format!("&mode={mode}"));
        }
        let made: wire::Made = self.ask_json(LOOK_WITHIN, Method::POST, uri, empty(), SMALL_ANSWER).await?;
        Ok((convert::stat(made.stat)?, made.existed))
    }

    pub(crate) async fn move_entry(&self, from: &[u8], to: &[u8], replace: bool) -> Result<FileStat, AgentError> {
        let uri = format!("/move?path={}&to={}&replace={replace}", encode(from), encode(to));
        convert::stat(self.ask_json(COPIED_WITHIN, Method::POST, uri, empty(), SMALL_ANSWER).await?)
    }

    pub(crate) async fn copy(&self, from: &[u8], to: &[u8], replace: bool) -> Result<(FileStat, Unpacked), AgentError> {
        let uri = format!("/copy?path={}&to={}&replace={replace}", encode(from), encode(to));
        let copied: wire::Copied = self.ask_json(COPIED_WITHIN, Method::POST, uri, empty(), SMALL_ANSWER).await?;
        Ok((convert::stat(copied.stat)?, convert::unpacked(copied.made)?))
    }

    /// A tar stream, with owners and set-id bits where they are asked for.
    pub(crate) async fn pack(&self, path: &[u8], owners: bool) -> Result<ByteStream, AgentError> {
        let uri = format!("/archive?path={}&owners={owners}", encode(path));
        let answer = super::in_time(ANSWER_WITHIN, self.send(Method::GET, uri, empty())).await?;
        Ok(content(answer.into_body(), u64::MAX))
    }

    pub(crate) async fn unpack(&self, path: &[u8], owners: bool, archive: ByteStream) -> Result<Unpacked, AgentError> {
        convert::unpacked(self.upload(format!("/archive?path={}&owners={owners}", encode(path)), archive).await?)
    }
}
