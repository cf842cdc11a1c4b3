//! The store as its callers use it: with images of every form, against a real registry and against one that means harm, on disks that are full
//! and in processes that are killed. Needs root, as unpacking does.

mod attacks;
mod faults;
mod fixture;
mod forms;
mod kept;
mod killed;
mod registry;
mod tools;
