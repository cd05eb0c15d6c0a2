//! Draws each creature, from back to front, on a board of 100 x 100 with its feet at about y = 88.

mod bird;
mod butterfly;
mod cat;
mod crab;
mod dragon;
mod fish;
mod ghost;
mod rabbit;
mod snake;
mod turtle;

use super::creature::Creature;
use super::sketch::Sketch;

pub(crate) fn draw(sketch: &mut Sketch) {
    match sketch.monster.creature {
        Creature::Bird => bird::draw(sketch),
        Creature::Butterfly => butterfly::draw(sketch),
        Creature::Cat => cat::draw(sketch),
        Creature::Crab => crab::draw(sketch),
        Creature::Dragon => dragon::draw(sketch),
        Creature::Fish => fish::draw(sketch),
        Creature::Ghost => ghost::draw(sketch),
        Creature::Rabbit => rabbit::draw(sketch),
        Creature::Snake => snake::draw(sketch),
        Creature::Turtle => turtle::draw(sketch),
    }
}
