//! A build: stage by stage, step by step.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result, bail};
use caisson_dockerfile::{Dockerfile, Form, Pair, Problem, Step, What};
use caisson_server::native::types::{ExecBody, ImageBody, ImageDetailsBody};

use super::{
    cache,
    config::{Config, absolute, ports},
    context::Context,
    lent::Lent,
    parcel::{self, Content, Dress, Entry},
    plan::{Base, Plan},
    scope::{Globals, Scope},
    told::Told,
    workshop::{There, Workshop},
};
use crate::status;

/// What `scratch` begins with.
const NOTHING: &str = "localhost/caisson-build:scratch";
/// So much of a command stands in a message.
const SHOWN: usize = 200;

/// An image that steps can be done on.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) id: String,
    /// What it says itself.
    pub(super) config: Config,
}

impl From<ImageDetailsBody> for Image {
    fn from(body: ImageDetailsBody) -> Self {
        Self { name: body.image.name, id: body.image.id, config: body.config.into() }
    }
}

/// How far a stage has come.
#[derive(Debug, Clone)]
pub(super) struct Made {
    /// With all files.
    pub(super) image: Image,
    /// What the next image is to say about its programs.
    pub(super) config: Config,
}

/// Everything that steps share.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    pub(super) file: &'a Dockerfile,
    pub(super) plan: &'a Plan,
    pub(super) globals: &'a Globals,
    pub(super) context: Arc<Context>,
    pub(super) workshop: &'a Workshop<'a>,
    pub(super) told: Told,
    /// Whether steps that have been done before are done again.
    pub(super) anew: bool,
    /// Whether images are looked for in their registries although they are here.
    pub(super) pull: bool,
    /// What programs are lent of this machine's settings.
    pub(super) lent: Lent,
    stages: BTreeMap<usize, Made>,
    images: BTreeMap<String, Image>,
    /// The step that is being done, as it is shown.
    label: String,
    pub(super) steps: usize,
    pub(super) cached: usize,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        (file, plan, globals): (&'a Dockerfile, &'a Plan, &'a Globals),
        context: Arc<Context>,
        workshop: &'a Workshop<'a>,
        told: Told,
    ) -> Self {
        let (stages, images, label) = (BTreeMap::new(), BTreeMap::new(), String::new());
        let lent = Lent::default();
        Self { file, plan, globals, context, workshop, told, anew: false, pull: false, lent, stages, images, label, steps: 0, cached: 0 }
    }

    /// Builds all that is needed, and gives the last of it its name.
    pub(super) async fn build(&mut self, name: &str) -> Result<ImageBody> {
        for index in self.plan.needed.clone() {
            let made = Box::pin(self.stage(index)).await?;
            self.stages.insert(index, made);
        }
        let (_, made) = self.stages.last_key_value().context("there is nothing to build")?;
        let made = made.clone();
        for unasked in self.globals.unasked() {
            self.told.line(&format!("--build-arg {unasked} was given, and no ARG asks for it"))?;
        }
        self.name(&made, name).await
    }

    async fn stage(&mut self, index: usize) -> Result<Made> {
        let stage = &self.file.stages[index];
        let total = stage.steps.len() + 1;
        let several = self.plan.needed.len() > 1;
        let own = stage.name.clone().unwrap_or_else(|| format!("stage-{index}"));
        let label = |number: usize| if several { format!("[{own} {number}/{total}]") } else { format!("[{number}/{total}]") };
        self.told.line(&format!("{} {}", label(1), stage.text))?;
        let mut made = self.begin(&self.plan.bases[index]).await.with_context(|| format!("line {}, {}", stage.line, stage.text))?;
        let (mut scope, mut has_cmd) = (Scope::new(self.globals), false);
        for (number, step) in stage.steps.iter().enumerate() {
            self.label = format!("{} {}", label(number + 2), step.text);
            self.steps += 1;
            self.told.step();
            let what = || {
                let text: String = step.text.chars().take(SHOWN).collect();
                format!("line {}, {text}", step.line)
            };
            Box::pin(self.step(index, &mut made, &mut scope, &mut has_cmd, step)).await.map_err(|error| {
                match error.downcast::<Problem>() {
                    Ok(problem) => anyhow::Error::msg(problem.message).context(what()),
                    Err(error) => error.context(what()),
                }
            })?;
        }
        Ok(made)
    }

    async fn begin(&mut self, base: &Base) -> Result<Made> {
        let image = self.base(base).await?;
        Ok(match base {
            Base::Stage(stage) => self.stages[stage].clone(),
            Base::Scratch | Base::Image(_) => Made { config: image.config.clone(), image },
        })
    }

    /// The image behind a base. It is got from its registry where it is not here.
    pub(super) async fn base(&mut self, base: &Base) -> Result<Image> {
        let name = match base {
            Base::Stage(stage) => return Ok(self.stages[stage].image.clone()),
            Base::Scratch => NOTHING,
            Base::Image(name) => name,
        };
        if let Some(known) = self.images.get(name) {
            return Ok(known.clone());
        }
        let found = self.workshop.image(name).await?;
        let image = match (found, base) {
            (Some(image), Base::Image(_)) if !self.pull => image,
            (Some(image), Base::Scratch) => image,
            _ => {
                match base {
                    // An archive without anything in it is none; the directory is there in every sandbox.
                    Base::Scratch => {
                        let entry = Entry {
                            name: b"dev".to_vec(),
                            kind: caisson_tree::tar::Kind::Directory,
                            mode: 0o755,
                            modified: 0,
                            content: Content::Nothing,
                        };
                        let archive = http_body_util::BodyExt::collect(parcel::of_entries(vec![entry], Dress::default())).await?;
                        self.workshop.import(name, archive.to_bytes().to_vec()).await?;
                    }
                    _ => self.workshop.pull(name).await?,
                }
                self.workshop.image(name).await?.with_context(|| format!("image {name} went as soon as it had come"))?
            }
        };
        let image = Image::from(image);
        self.images.insert(name.to_owned(), image.clone());
        Ok(image)
    }

    async fn step(&mut self, stage: usize, made: &mut Made, scope: &mut Scope<'_>, has_cmd: &mut bool, step: &Step) -> Result<()> {
        match &step.what {
            What::Run(form) => return self.run(made, scope, form, step).await,
            What::Copy(copy) => return self.copy(stage, made, scope, copy, step).await,
            What::WorkDir(path) => {
                let path = scope.expand(step.line, path, &made.config.env)?;
                return self.work_dir(made, &path, step).await;
            }
            _ => self.told.line(&self.label)?,
        }
        // All that follows changes what the image says, and no file.
        let env = made.config.env.clone();
        let expand = |text: &str| scope.expand(step.line, text, &env);
        let pairs = |pairs: &[Pair]| -> Result<Vec<(String, String)>, Problem> {
            pairs.iter().map(|pair| Ok((expand(&pair.name)?, expand(&pair.value)?))).collect()
        };
        let config = &mut made.config;
        let command = |form: &Form, config: &Config| match form {
            Form::Exec(words) => words.clone(),
            Form::Shell(text) => [config.shell(), vec![text.clone()]].concat(),
        };
        match &step.what {
            What::Env(list) => {
                for (name, value) in pairs(list)? {
                    if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                        bail!("`{}` is no name for a variable", name.escape_debug());
                    }
                    config.set(name, value);
                }
            }
            What::Label(list) => config.labels.extend(pairs(list)?),
            What::Arg(names) => {
                for (name, default) in names {
                    scope.declare(step.line, name, default.as_deref(), &env)?;
                }
            }
            What::User(user) => {
                let user = expand(user)?;
                if user.is_empty() || user.contains(char::is_whitespace) {
                    bail!("`{}` is no user", user.escape_debug());
                }
                config.user = Some(user);
            }
            What::Expose(list) => {
                for text in list {
                    for word in expand(text)?.split_whitespace() {
                        for port in ports(word).map_err(anyhow::Error::msg)? {
                            if !config.ports.contains(&port) {
                                config.ports.push(port);
                            }
                        }
                    }
                }
                // As the store has them, so that an image that says the same is the same.
                config.ports.sort();
            }
            What::Entrypoint(form) => {
                config.entrypoint = command(form, config);
                // What the image below says goes with another entrypoint.
                if !*has_cmd {
                    config.cmd.clear();
                }
            }
            What::Cmd(form) => {
                config.cmd = command(form, config);
                *has_cmd = true;
            }
            What::Shell(words) => config.shell = Some(words.clone()),
            What::Run(_) | What::Copy(_) | What::WorkDir(_) => {}
        }
        Ok(())
    }

    async fn run(&mut self, made: &mut Made, scope: &Scope<'_>, form: &Form, step: &Step) -> Result<()> {
        let cmd = match form {
            Form::Exec(words) => words.clone(),
            Form::Shell(text) => [made.config.shell(), vec![text.clone()]].concat(),
        };
        let key = cache::name(&made.image.id, &made.config, &("run", &cmd, scope.args()));
        if self.is_done(made, &key).await? {
            return Ok(());
        }
        let as_root = made.config.is_roots();
        if !as_root {
            self.settle_user(made).await?;
        }
        let mut env = self.lent.variables.clone();
        env.extend(scope.args().clone());
        env.extend(self.globals.proxies().map(|(name, value)| (name.clone(), value.clone())));
        env.extend(made.config.env.iter().cloned());
        let body = ExecBody {
            cmd: Some(cmd),
            env,
            cwd: Some(made.config.directory().to_owned()),
            timeout_s: Some(None),
            wait_for_readers: true,
            ..ExecBody::default()
        };
        let bench = self.workshop.begin(&made.image.name, as_root).await?;
        for (path, content) in &self.lent.files {
            self.workshop.put(&bench, path, content.clone()).await?;
        }
        let result = self.workshop.run(&bench, &body, &mut self.told).await?;
        let (code, message) = status::of_result(&result);
        if code != 0 {
            self.told.failed()?;
            let more = message.map(|message| format!(": {message}")).unwrap_or_default();
            bail!("it ended with exit code {code}{more}");
        }
        self.keep(made, bench, &key, step).await
    }

    /// Programs run as the user of their image, so one that says so has to be there.
    async fn settle_user(&mut self, made: &mut Made) -> Result<()> {
        if made.config.user == made.image.config.user {
            return Ok(());
        }
        let key = cache::name(&made.image.id, &made.config, &"user");
        if let Some(image) = self.workshop.image(&key).await? {
            made.image = Image { config: made.config.clone(), ..image.into() };
            return Ok(());
        }
        let bench = self.workshop.begin(&made.image.name, true).await?;
        let change = made.config.change_from(&made.image.config);
        let image = self.workshop.commit(&bench, &key, change, "USER").await?;
        made.image = Image { name: image.name, id: image.id, config: made.config.clone() };
        self.workshop.end(bench).await
    }

    async fn work_dir(&mut self, made: &mut Made, path: &str, step: &Step) -> Result<()> {
        if path.is_empty() || path.contains('\0') {
            bail!("a directory has a name");
        }
        let path = absolute(made.config.directory(), path);
        made.config.work_dir = Some(path.clone());
        let key = cache::name(&made.image.id, &made.config, &("workdir", &path));
        if self.is_done(made, &key).await? {
            return Ok(());
        }
        let bench = self.workshop.begin(&made.image.name, true).await?;
        match self.workshop.there(&bench, &path).await? {
            There::Directory => {}
            There::Other => bail!("`{path}` is there, and is no directory"),
            There::Nothing => {
                let itself = Entry {
                    name: Vec::new(),
                    kind: caisson_tree::tar::Kind::Directory,
                    mode: 0o755,
                    modified: 0,
                    content: Content::Nothing,
                };
                self.workshop.unpack(&bench, &path, parcel::of_entries(vec![itself], Dress::default())).await?;
            }
        }
        self.keep(made, bench, &key, step).await
    }

    /// Whether a step has been done before, so that its result is taken. Says which step it is.
    pub(super) async fn is_done(&mut self, made: &mut Made, key: &str) -> Result<bool> {
        let known = if self.anew { None } else { self.workshop.image(key).await? };
        match known {
            Some(image) => {
                self.cached += 1;
                self.told.line(&format!("CACHED {}", self.label))?;
                made.image = Image { config: made.config.clone(), ..image.into() };
                Ok(true)
            }
            None => {
                self.told.line(&self.label)?;
                Ok(false)
            }
        }
    }

    /// What a step has made becomes an image, and its sandbox ends.
    pub(super) async fn keep(&mut self, made: &mut Made, bench: super::workshop::Bench, key: &str, step: &Step) -> Result<()> {
        let change = made.config.change_from(&made.image.config);
        let image = self.workshop.commit(&bench, key, change, &step.text).await?;
        made.image = Image { name: image.name, id: image.id, config: made.config.clone() };
        self.workshop.end(bench).await
    }

    /// The image gets the name that was asked for. One that has it already, and is the same, stays.
    async fn name(&mut self, made: &Made, name: &str) -> Result<ImageBody> {
        if let (Some(there), Some(image)) = (self.workshop.image(name).await?, self.workshop.image(&made.image.name).await?) {
            let layers = |image: &ImageDetailsBody| image.layers.iter().map(|layer| layer.diff_id.clone()).collect::<Vec<_>>();
            if layers(&there) == layers(&image) && made.config.is_said_by(there.config.clone().into()) && !self.anew {
                return Ok(there.image);
            }
        }
        let bench = self.workshop.begin(&made.image.name, true).await?;
        let image = self.workshop.commit(&bench, name, made.config.change_from(&made.image.config), "").await?;
        self.workshop.end(bench).await?;
        Ok(image)
    }
}
