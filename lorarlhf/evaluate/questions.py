"""A fixed text and forty questions, to tell whether a policy forgets what its reference knew. Written for this project.

They are few on purpose, so that asking takes seconds, and easy, so that small bases know some of them. They compare one
adapter with another on the same base; they are no benchmark, and say nothing about how good a base is.
"""

from __future__ import annotations

from typing import NamedTuple

TEXT = (
    "The old mill stands at the end of a narrow road, where the river bends to the south.",
    "For two hundred years it ground the wheat of the whole valley, and in winter the water froze around its wheel.",
    "Nobody has used it since the new bridge was built, because lorries can now reach the larger mill in the town.",
    "Last spring a young couple bought the house and began to repair the roof.",
    "They found a box of letters under the floor, written by a woman who had lived there a long time ago.",
    "In one of them she asks her brother to bring salt, candles and a new pair of shoes.",
    "In another she describes a storm that carried away the fence and three of her hens.",
    "The couple read the letters aloud in the evening, and their neighbours came to listen.",
    "If you heat water in an open pot, bubbles form at the bottom and rise, and after a while the water boils.",
    "High in the mountains it boils at a lower temperature, which is why potatoes take longer to cook there.",
    "A bicycle stays upright more easily when it moves than when it stands still.",
    "To get from the station to the museum, walk along the main street, turn left at the bank and cross the square.",
    "The museum opens at ten in the morning and closes at six, except on Mondays, when it is closed all day.",
    "Tickets cost eight euros for adults, and children under twelve do not pay anything.",
    "Please send the form back to us before the end of the month, so that we can answer you in time.",
    "We are sorry that the parcel arrived late, and we will return the cost of the delivery to your account.",
    "The committee could not agree on a date, so the meeting was moved to the first week of September.",
    "She closed the window, put the cup on the table and began to write.",
    "There were more people at the market than usual, since the weather had been fine since early morning.",
    "When the rain stopped, the children ran outside and jumped over the puddles until it was dark.",
)
"""Plain sentences of several kinds, one after the other."""


class Question(NamedTuple):
    """Something a base may know."""

    text: str
    right: str
    wrong: tuple[str, ...]
    """Of the same kind, and about as long as the right one."""


QUESTIONS = (
    Question("What is the capital of France?", "Paris", ("Rome", "Madrid", "London")),
    Question("What is the capital of Japan?", "Tokyo", ("Seoul", "Hanoi", "Delhi")),
    Question("Which planet do we live on?", "Earth", ("Mars", "Venus", "Saturn")),
    Question("How many days are in a week?", "Seven", ("Five", "Nine", "Twelve")),
    Question("How many legs does a spider have?", "Eight", ("Six", "Four", "Ten")),
    Question("What do bees make?", "Honey", ("Milk", "Silk", "Flour")),
    Question("What is frozen water called?", "Ice", ("Oil", "Sand", "Steam")),
    Question("Which animal barks?", "A dog", ("A cat", "A cow", "A fish")),
    Question("What colour is fresh grass?", "Green", ("Blue", "Purple", "Red")),
    Question("What colour is the sky on a clear day?", "Blue", ("Green", "Brown", "Black")),
    Question("Which season comes after winter?", "Spring", ("Autumn", "Summer", "Winter")),
    Question("Which month comes after May?", "June", ("July", "April", "March")),
    Question("Which day comes before Friday?", "Thursday", ("Saturday", "Tuesday", "Monday")),
    Question("In which direction does the sun rise?", "In the east", ("In the west", "In the north", "In the south")),
    Question("What is two plus three?", "Five", ("Six", "Four", "Nine")),
    Question("What is ten minus four?", "Six", ("Five", "Eight", "Three")),
    Question("What is three times four?", "Twelve", ("Seven", "Ten", "Fifteen")),
    Question("What is half of eighteen?", "Nine", ("Eight", "Six", "Twelve")),
    Question("Which number is the largest: 12, 45, 7 or 31?", "45", ("12", "31", "7")),
    Question("How many minutes are in an hour?", "60", ("24", "100", "30")),
    Question("What comes next: 2, 4, 6, 8?", "10", ("9", "12", "7")),
    Question("What is the opposite of hot?", "Cold", ("Warm", "Loud", "Tall")),
    Question("What is the opposite of early?", "Late", ("Soon", "Fast", "Near")),
    Question("What is the opposite of to buy?", "To sell", ("To pay", "To find", "To walk")),
    Question("What is the plural of child?", "Children", ("Childs", "Childes", "Childer")),
    Question("What is the past tense of go?", "Went", ("Goed", "Gone to", "Goes")),
    Question("Which word means nearly the same as big?", "Large", ("Small", "Short", "Quiet")),
    Question("Which word rhymes with house?", "Mouse", ("Horse", "Home", "Hose")),
    Question("Which of these is a fruit?", "Apple", ("Carrot", "Bread", "Cheese")),
    Question("Which of these can fly?", "A sparrow", ("A rabbit", "A horse", "A turtle")),
    Question("Which of these is made of metal?", "A nail", ("A pillow", "A leaf", "A candle")),
    Question("Where do fish live?", "In water", ("In trees", "In the air", "In fire")),
    Question("What do you use to cut paper?", "Scissors", ("A spoon", "A towel", "A bucket")),
    Question("What do you use to unlock a door?", "A key", ("A cup", "A hat", "A bed")),
    Question("What do people read?", "Books", ("Chairs", "Shoes", "Spoons")),
    Question("Who treats sick people?", "A doctor", ("A baker", "A pilot", "A farmer")),
    Question("Who flies a plane?", "A pilot", ("A baker", "A nurse", "A judge")),
    Question("Anna is older than Ben. Ben is older than Carl. Who is the oldest?", "Anna", ("Ben", "Carl", "Nobody")),
    Question("Tom has three apples and eats one. How many apples has he left?", "Two", ("Three", "Four", "One")),
    Question(
        "All the cups are on the table. The red one is a cup. Where is the red one?",
        "On the table",
        ("Under the bed", "In the garden", "On the floor"),
    ),
)
