"""Small Python functions used by the tutorial pages and by the code dialogues: name, task, body and description."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CodeItem:
    """One function: its signature, what it should do, its return expression and how prose would put it."""

    name: str
    args: str
    task: str
    doc: str
    body: str
    prose: str

    @property
    def source(self) -> str:
        """The function as Python source."""
        return f'def {self.name}({self.args}):\n    """{self.doc}"""\n    {self.body}'


# name; arguments; task; docstring; body; the same in prose
_ROWS = """
add; a, b; adds two numbers; Return the sum of a and b.; return a + b; you put a plus sign between the two numbers
subtract; a, b; subtracts two numbers; Return a minus b.; return a - b; you take the second from the first
multiply; a, b; multiplies two numbers; Return the product of a and b.; return a * b; \
you use the star sign on the two numbers
divide; a, b; divides two numbers; Return a divided by b.; return a / b; you use a slash between the two numbers
square; x; squares a number; Return x times x.; return x * x; you multiply the number by itself
cube; x; cubes a number; Return x to the third power.; return x ** 3; you multiply it by itself two times
double; x; doubles a number; Return two times x.; return 2 * x; you multiply the number by two
half; x; halves a number; Return half of x.; return x / 2; you divide the number by two
is_even; n; tells if a number is even; Return True if n is even.; return n % 2 == 0; \
you look at the rest after a division by two
is_odd; n; tells if a number is odd; Return True if n is odd.; return n % 2 == 1; \
you look at the rest and see if it is one
larger; a, b; finds the larger of two numbers; Return the larger number.; return max(a, b); \
you call max on the two numbers
smaller; a, b; finds the smaller of two numbers; Return the smaller number.; return min(a, b); \
you call min on the two numbers
total; items; sums a list; Return the sum of items.; return sum(items); you call sum on the list
mean; items; finds the mean of a list; Return the mean of items.; return sum(items) / len(items); \
you divide the sum by the length
count; items; counts the items of a list; Return the number of items.; return len(items); you call len on the list
first; items; returns the first item of a list; Return the first item.; return items[0]; \
you take index zero of the list
last; items; returns the last item of a list; Return the last item.; return items[-1]; \
you take index minus one of the list
reverse; text; reverses a string; Return text backwards.; return text[::-1]; you take a slice with a step of minus one
upper; text; turns a string into capitals; Return text in capitals.; return text.upper(); you call upper on the string
lower; text; turns a string into small letters; Return text in small letters.; return text.lower(); \
you call lower on the string
words; text; splits a string into words; Return the words of text.; return text.split(); you call split on the string
join; words; joins words with spaces; Return the words in one string.; return " ".join(words); \
you call join on a string with one space
greet; name; greets a person; Return a greeting for name.; return "Hello, " + name; you put hello before the name
is_empty; items; tells if a list is empty; Return True if items is empty.; return len(items) == 0; \
you see if the length is zero
absolute; x; finds the absolute value; Return the absolute value of x.; return abs(x); you call abs on the number
area; width, height; finds the area of a rectangle; Return width times height.; return width * height; \
you multiply the two sides
sort; items; sorts a list; Return the items in order.; return sorted(items); you call sorted on the list
unique; items; removes doubles from a list; Return the items without doubles.; return list(set(items)); \
you turn the list into a set
repeat; text, n; repeats a string; Return text n times.; return text * n; you multiply the string by the count
celsius; f; turns Fahrenheit into Celsius; Return f in Celsius.; return (f - 32) * 5 / 9; \
you take away 32 and scale by five ninths
"""


def _parse(row: str) -> CodeItem:
    name, args, task, doc, body, prose = (part.strip() for part in row.split(";"))
    return CodeItem(name, args, task, doc, body, prose)


CODE_ITEMS: tuple[CodeItem, ...] = tuple(_parse(row) for row in _ROWS.strip().splitlines())
