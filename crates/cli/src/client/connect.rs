//! Which server, and with which key.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};

use crate::{data_dir::Surroundings, key};

const DEFAULT: &str = "http://127.0.0.1:8080";

/// The server to talk to.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// The server's address [default: http://127.0.0.1:8080]
    #[arg(long, help_heading = "Server", value_name = "URL", env = "CAISSON_SERVER", hide_env_values = true)]
    server: Option<String>,
    /// A file with the key. Without it CAISSON_API_KEY is the key, or, for a server on this machine, what is in its data directory
    /// (CAISSON_DATA_DIR)
    #[arg(long, help_heading = "Server", value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl ServerArgs {
    /// Whether the command line says anything about a server. What the environment says is for all commands.
    pub(crate) fn is_on_command_line(&self) -> bool {
        self.key_file.is_some() || self.server.as_ref().is_some_and(|server| std::env::var("CAISSON_SERVER").as_ref() != Ok(server))
    }

    /// Whether anybody has named a server.
    pub(crate) fn is_named(&self) -> bool {
        self.server.is_some()
    }
}

/// A server with the key for it.
#[derive(Debug)]
pub(crate) struct Target {
    /// Without a slash at its end; safe to show.
    pub(super) url: String,
    /// In front of every path.
    prefix: String,
    authority: http::uri::Authority,
    /// With the header that it goes into.
    key: Option<(HeaderName, HeaderValue)>,
    /// Where the key came from, or why there is none.
    about_key: String,
    is_of_dialect: bool,
}

impl Target {
    /// What options and environment say.
    pub(super) fn find(args: &ServerArgs) -> Result<Self> {
        Self::of(args.server.as_deref().unwrap_or(DEFAULT), |local| find_key(args, local), header::AUTHORIZATION)
    }

    /// The server of an address, for clients of another API that show the key in a header of their own. `given` is theirs; without it
    /// the key is found as for all other commands.
    pub(crate) fn of_dialect(url: &str, given: Option<key::Key>, header: HeaderName) -> Result<Self> {
        let nothing = ServerArgs { server: None, key_file: None };
        let find = |local| match given {
            Some(key) => Ok((Some(key), "--api-key or the environment".to_owned())),
            None => find_key(&nothing, local),
        };
        Self::of(url, find, header)
    }

    /// A server with the key for it.
    pub(crate) fn with_key(url: &str, key: key::Key) -> Result<Self> {
        Self::of(url, |_| Ok((Some(key), "this program".to_owned())), header::AUTHORIZATION)
    }

    fn of(url: &str, find_key: impl FnOnce(bool) -> Result<(Option<key::Key>, String)>, header: HeaderName) -> Result<Self> {
        let uri: Uri = url.parse().map_err(|_| not_a_server(url))?;
        let authority = uri.authority().cloned().ok_or_else(|| not_a_server(url))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                bail!("https is not supported by this version yet; use http over a tunnel, such as `ssh -L 8080:localhost:8080 HOST`")
            }
            _ => return Err(not_a_server(url)),
        }
        if uri.query().is_some() || authority.as_str().contains('@') {
            return Err(not_a_server(url));
        }
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let (key, about_key) = find_key(is_this_machine(authority.host()))?;
        let is_of_dialect = header != header::AUTHORIZATION;
        let scheme = if is_of_dialect { "" } else { "Bearer " };
        let value = |key: key::Key| HeaderValue::from_str(&format!("{scheme}{}", key.reveal()));
        let key = key.map(value).transpose().context("the key fits into no header")?;
        let key = key.map(|mut value| {
            value.set_sensitive(true);
            (header, value)
        });
        Ok(Self { url: format!("http://{authority}{prefix}"), prefix, authority, key, about_key, is_of_dialect })
    }

    /// A request without a body.
    pub(super) fn request(&self, method: Method, target: &str) -> Result<Request<()>> {
        let uri =
            Uri::builder().scheme("http").authority(self.authority.clone()).path_and_query(format!("{}{target}", self.prefix)).build();
        let mut request = Request::builder().method(method).uri(uri.context("this makes no address")?).body(())?;
        if let Some((name, key)) = &self.key {
            request.headers_mut().insert(name, key.clone());
        }
        Ok(request)
    }

    /// What to do when the server does not take the key.
    pub(super) fn why_unauthorized(&self) -> String {
        if self.is_of_dialect {
            return "does not take the key, or there is none; give the server's key with --api-key or BOXED_API_KEY".to_owned();
        }
        match &self.key {
            Some(_) => format!(
                "does not take the key from {}; set the server's key as CAISSON_API_KEY, or name a file with --key-file",
                self.about_key
            ),
            None => format!("wants a key, and {}; set CAISSON_API_KEY, or name a file with --key-file", self.about_key),
        }
    }
}

fn not_a_server(url: &str) -> anyhow::Error {
    anyhow!("`{url}` is no server's address; write it like {DEFAULT} (--server or CAISSON_SERVER)")
}

fn find_key(args: &ServerArgs, local: bool) -> Result<(Option<key::Key>, String)> {
    if let Some(path) = &args.key_file {
        return match key::read(path)? {
            Some(key) => Ok((Some(key), path.display().to_string())),
            None => bail!("there is no key file {}; correct --key-file", path.display()),
        };
    }
    if let Some(text) = std::env::var_os("CAISSON_API_KEY") {
        let key = key::Key::new(&text.to_string_lossy()).map_err(|what| anyhow!("CAISSON_API_KEY {what}"))?;
        return Ok((Some(key), "CAISSON_API_KEY".to_owned()));
    }
    if !local {
        return Ok((None, "there is none for it".to_owned()));
    }
    let named = std::env::var_os("CAISSON_DATA_DIR").map(PathBuf::from);
    let Some(data_dir) = named.or_else(|| Surroundings::now().data_dir()) else { return Ok((None, "there is none for it".to_owned())) };
    let path = key::path(&data_dir);
    // The server may need no key; whether this one was needed shows in its answer.
    Ok(match key::read(&path) {
        Ok(Some(key)) => (Some(key), path.display().to_string()),
        Ok(None) => (None, format!("there is none in {}", path.display())),
        Err(error) => (None, format!("{error:#}")),
    })
}

fn is_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target> {
        // A key file keeps the environment of the test out of it.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "k\n").unwrap();
        Target::find(&ServerArgs { server: Some(url.to_owned()), key_file: Some(file.path().to_owned()) })
    }

    #[test]
    fn addresses_may_have_a_path() {
        let found = target("http://box:9/caisson/").unwrap();
        let request = found.request(Method::GET, "/v1/sandboxes?name=a%20b").unwrap();
        assert_eq!(request.uri(), "http://box:9/caisson/v1/sandboxes?name=a%20b");
        assert_eq!(request.headers()[header::AUTHORIZATION], "Bearer k");
        assert_eq!(target("http://[::1]:80").unwrap().request(Method::GET, "/x").unwrap().uri(), "http://[::1]:80/x");
    }

    #[test]
    fn other_addresses_are_refused() {
        for url in
            ["", "localhost", "localhost:8080", "127.0.0.1:8080", "ftp://x", "http://", "http://a b", "http://u:p@x", "http://x/?a=b"]
        {
            assert!(target(url).unwrap_err().to_string().contains("is no server's address"), "{url}");
        }
        assert!(target("https://x").unwrap_err().to_string().contains("https is not supported"));
    }

    #[test]
    fn loopback_is_this_machine() {
        for (host, expect) in
            [("localhost", true), ("127.0.0.1", true), ("127.9.9.9", true), ("[::1]", true), ("10.0.0.1", false), ("example.com", false)]
        {
            assert_eq!(is_this_machine(host), expect, "{host}");
        }
    }
}
