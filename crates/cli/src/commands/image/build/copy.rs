//! `COPY` and `ADD`.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use caisson_dockerfile::{Pattern, Source, Step, Transfer};
use caisson_tree::{MAX_ID, tar::Kind};
use sha2::{Digest, Sha256};

use super::{
    builder::{Builder, Made},
    cache,
    config::absolute,
    context::Found,
    parcel::{self, Content, Dress, Entry},
    plan::{self, Base},
    scope::Scope,
    workshop::{Bench, There, Workshop},
};
use crate::client::Body;

/// Where to, and how. All variables are replaced.
#[derive(Debug)]
struct Target {
    /// Absolute.
    path: String,
    /// Whether it can only be a directory.
    directory: bool,
    chown: Option<String>,
    mode: Option<u32>,
}

impl Target {
    fn new(copy: &Transfer, work_dir: &str, expand: impl Fn(&str) -> Result<String>) -> Result<Self> {
        let destination = expand(&copy.destination)?;
        if destination.is_empty() || destination.contains('\0') {
            bail!("it does not say where to");
        }
        let directory = [".", ".."].contains(&&*destination) || ["/", "/.", "/.."].iter().any(|end| destination.ends_with(end));
        let mode = copy.chmod.as_deref().map(&expand).transpose()?.map(|text| mode(&text)).transpose()?;
        Ok(Self { path: absolute(work_dir, &destination), directory, chown: copy.chown.as_deref().map(&expand).transpose()?, mode })
    }

    /// In which directory a file called `name` comes to lie, and by which name.
    fn place<'a>(&'a self, name: &'a [u8], there: There) -> (&'a str, Vec<u8>) {
        if self.directory || there == There::Directory {
            return (&self.path, name.to_vec());
        }
        match self.path.rsplit_once('/') {
            Some((parent, last)) => (if parent.is_empty() { "/" } else { parent }, last.as_bytes().to_vec()),
            None => (&self.path, name.to_vec()),
        }
    }
}

fn mode(text: &str) -> Result<u32> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(mode),
        _ => bail!("--chmod={text} is not supported; write the bits in octal, such as 755"),
    }
}

impl Builder<'_> {
    pub(super) async fn copy(&mut self, stage: usize, made: &mut Made, scope: &Scope<'_>, copy: &Transfer, step: &Step) -> Result<()> {
        let env = made.config.env.clone();
        let expand = |text: &str| scope.expand(step.line, text, &env).map_err(anyhow::Error::from);
        let target = Target::new(copy, made.config.directory(), expand)?;
        let dressed = (&target.path, target.directory, &target.chown, target.mode);
        if let Some(from) = &copy.from {
            let base = plan::source(self.file, from, stage).map_err(anyhow::Error::msg)?;
            let sources = copy.sources.iter().map(|source| match source {
                Source::Path(path) => expand(path),
                Source::Document(document) => Ok(document.name.clone()),
            });
            let sources = sources.collect::<Result<Vec<_>>>()?;
            let id = self.base(&base).await?.id;
            let key = cache::name(&made.image.id, &made.config, &("copy", id, &sources, dressed));
            if self.is_done(made, &key).await? {
                return Ok(());
            }
            let bench = self.bring_from_image(made, &base, &sources, &target).await?;
            return self.keep(made, bench, &key, step).await;
        }
        let mut found = Vec::new();
        for source in &copy.sources {
            match source {
                Source::Path(path) => {
                    let path = expand(path)?;
                    let context = Arc::clone(&self.context);
                    // Reads all of it.
                    found.extend(tokio::task::spawn_blocking(move || context.find(&path)).await??);
                }
                Source::Document(document) => {
                    let text = if document.expands { scope.expand(step.line, &document.content, &env)? } else { document.content.clone() };
                    let name = document.name.clone().into_bytes();
                    let entry = Entry { name: name.clone(), kind: Kind::File, mode: 0o644, modified: 0, content: Content::Text(text) };
                    found.push(Found { is_directory: false, name, entries: vec![entry] });
                }
            }
        }
        let kind = if copy.add { "add" } else { "copy" };
        let key = cache::name(&made.image.id, &made.config, &(kind, digest(&found), dressed));
        if self.is_done(made, &key).await? {
            return Ok(());
        }
        let bench = self.workshop.begin(&made.image.name, true).await?;
        let dress = dress(self.workshop, &bench, &target).await?;
        let there = self.workshop.there(&bench, &target.path).await?;
        check(&target, there, found.len() > 1)?;
        for found in found {
            if copy.add
                && let [Entry { content: Content::File { path, .. }, .. }] = &found.entries[..]
                && let Some(archive) = parcel::unpacked(path).with_context(|| format!("cannot unpack {}", path.display()))?
            {
                self.unpack(&bench, &target.path, parcel::of_archive(archive, dress, None)).await?;
                continue;
            }
            if found.is_directory {
                if there == There::Other {
                    bail!("`{}` is there, and is no directory", target.path);
                }
                self.unpack(&bench, &target.path, parcel::of_entries(found.entries, dress)).await?;
                continue;
            }
            let (directory, name) = target.place(&found.name, there);
            let entries = found.entries.into_iter().map(|entry| Entry { name: name.clone(), ..entry }).collect();
            self.unpack(&bench, directory, parcel::of_entries(entries, dress)).await?;
        }
        self.keep(made, bench, &key, step).await
    }

    async fn bring_from_image(&mut self, made: &Made, base: &Base, sources: &[String], target: &Target) -> Result<Bench> {
        let source = self.base(base).await?;
        let from = self.workshop.begin(&source.name, true).await?;
        let bench = self.workshop.begin(&made.image.name, true).await?;
        let dress = dress(self.workshop, &bench, target).await?;
        let there = self.workshop.there(&bench, &target.path).await?;
        let mut paths = Vec::new();
        for source in sources {
            let path = absolute("/", source);
            if !Pattern::is_wild(&path) {
                paths.push(path);
                continue;
            }
            let mut matching = self.workshop.matching(&from, path.trim_start_matches('/')).await?;
            if matching.is_empty() {
                bail!("nothing matches `{source}`");
            }
            matching.sort();
            paths.append(&mut matching);
        }
        check(target, there, paths.len() > 1)?;
        for path in &paths {
            let name = path.rsplit('/').next().unwrap_or_default().as_bytes();
            let kind = self.workshop.there(&from, path).await?;
            let (directory, only) = match kind {
                There::Nothing => bail!("there is no `{path}` to copy"),
                There::Directory if there == There::Other => bail!("`{}` is there, and is no directory", target.path),
                There::Directory => (target.path.as_str(), None),
                There::Other => {
                    let (directory, name) = target.place(name, there);
                    (directory, Some(name))
                }
            };
            let archive = self.workshop.fetch(&from, path).await.with_context(|| format!("cannot copy {path}"))?;
            self.unpack(&bench, directory, parcel::of_archive(archive, dress, only)).await?;
        }
        self.workshop.end(from).await?;
        Ok(bench)
    }

    async fn unpack(&mut self, bench: &Bench, directory: &str, archive: Body) -> Result<()> {
        let made = self.workshop.unpack(bench, directory, archive).await?;
        for left in &made.left_out {
            self.told.line(&format!("left out: {}/{}: {}", directory.trim_end_matches('/'), left.path, left.reason))?;
        }
        let more = made.left_out_total.saturating_sub(made.left_out.len() as u64);
        if more > 0 { self.told.line(&format!("left out: {more} more in {directory}")) } else { Ok(()) }
    }
}

fn check(target: &Target, there: There, several: bool) -> Result<()> {
    let path = &target.path;
    match there {
        There::Other if target.directory => bail!("`{path}` is there, and is no directory"),
        There::Nothing | There::Other if several && !target.directory => {
            bail!("several things go into a directory, and `{path}` is none; write {path}/")
        }
        _ => Ok(()),
    }
}

/// What a build can see of it.
fn digest(found: &[Found]) -> String {
    let mut hash = Sha256::new();
    for found in found {
        hash.update([u8::from(found.is_directory)]);
        hash.update((found.entries.len() as u64).to_le_bytes());
        for entry in &found.entries {
            entry.add_to(&mut hash);
        }
    }
    cache::hex(&hash.finalize())
}

async fn dress(workshop: &Workshop<'_>, bench: &Bench, target: &Target) -> Result<Dress> {
    let owner = match &target.chown {
        None => None,
        Some(text) => {
            let (user, group) = text.split_once(':').map_or((text.as_str(), None), |(user, group)| (user, Some(group)));
            let accounts = if id(user).is_some() { String::new() } else { workshop.table(bench, "/etc/passwd").await? };
            let groups = match group {
                Some(group) if id(group).is_none() => workshop.table(bench, "/etc/group").await?,
                _ => String::new(),
            };
            Some(owner(user, group, &accounts, &groups)?)
        }
    };
    Ok(Dress { owner, mode: target.mode })
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Who somebody is, by tables as in `passwd(5)` and `group(5)`. A number without a group is the number of its group as well.
fn owner(user: &str, group: Option<&str>, accounts: &str, groups: &str) -> Result<(u32, u32)> {
    let known = |table: &str, name: &str| {
        let line = table.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2).map(|field| field.parse::<u32>().ok());
        Some((fields.next()??, fields.next().flatten()))
    };
    let (uid, own_gid) = match id(user) {
        Some(uid) => (uid, uid),
        None => match known(accounts, user) {
            Some((uid, gid)) => (uid, gid.unwrap_or(uid)),
            None => bail!("--chown: there is no user `{user}` in the image's /etc/passwd"),
        },
    };
    let gid = match group {
        None => own_gid,
        Some(group) => match id(group).or_else(|| known(groups, group).map(|(gid, _)| gid)) {
            Some(gid) => gid,
            None => bail!("--chown: there is no group `{group}` in the image's /etc/group"),
        },
    };
    if uid > MAX_ID || gid > MAX_ID {
        bail!("--chown: ids go up to {MAX_ID}");
    }
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_looked_up_in_the_image() {
        let (accounts, groups) = ("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n", "root:x:0:\nstaff:x:50:\n");
        for (user, group, expect) in [
            ("1", None, (1, 1)),
            ("1", Some("2"), (1, 2)),
            ("app", None, (1000, 1001)),
            ("app", Some("staff"), (1000, 50)),
            ("app", Some("7"), (1000, 7)),
        ] {
            assert_eq!(owner(user, group, accounts, groups).unwrap(), expect, "{user} {group:?}");
        }
        for (user, group) in [("none", None), ("app", Some("none")), ("70000", None), ("", None), ("-1", None)] {
            assert!(owner(user, group, accounts, groups).is_err(), "{user} {group:?}");
        }
    }

    #[test]
    fn destinations_are_files_or_directories() {
        let target = |destination: &str| {
            let copy = Transfer {
                add: false,
                from: None,
                chown: None,
                chmod: Some("0755".to_owned()),
                sources: Vec::new(),
                destination: destination.to_owned(),
            };
            Target::new(&copy, "/work", |text| Ok(text.to_owned())).unwrap()
        };
        for (destination, there, place) in [
            ("a", There::Nothing, ("/work", "a")),
            ("a/", There::Nothing, ("/work/a", "f")),
            ("a", There::Directory, ("/work/a", "f")),
            ("/a", There::Other, ("/", "a")),
            (".", There::Directory, ("/work", "f")),
            ("/", There::Directory, ("/", "f")),
            ("/x/y/z", There::Nothing, ("/x/y", "z")),
        ] {
            let target = target(destination);
            let (directory, name) = target.place(b"f", there);
            assert_eq!((directory, std::str::from_utf8(&name).unwrap()), place, "{destination}");
        }
        assert_eq!(target("a").mode, Some(0o755));
        assert!(mode("u+x").is_err() && mode("10000").is_err() && mode("+7").is_err());
    }
}
