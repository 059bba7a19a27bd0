"""Word lists for the English sentences: one `Topic` per ordinary subject.

The lists are kept apart from the grammar so that a subject can be added without touching any rule. Every entry is
written to fit one grammatical slot: `people` are plural nouns, `things` singular count nouns, `many` plural nouns,
`do` base-form verb phrases, `places` prepositional phrases and `clauses` complete clauses in the present tense.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """The vocabulary of one subject."""

    name: str
    title: str
    people: tuple[str, ...]
    things: tuple[str, ...]
    many: tuple[str, ...]
    adjs: tuple[str, ...]
    do: tuple[str, ...]
    places: tuple[str, ...]
    clauses: tuple[str, ...]


def topic(
    name: str, title: str, people: str, things: str, many: str, adjs: str, do: str, places: str, clauses: str
) -> Topic:
    """Build a topic from strings whose entries are parted by a bar, which keeps the lists below readable."""
    parts = [tuple(p.strip() for p in text.split("|")) for text in (people, things, many, adjs, do, places, clauses)]
    return Topic(name, title, *parts)


TOPICS_EN: tuple[Topic, ...] = (
    topic(
        "rivers",
        "rivers",
        "boatmen|anglers|ferry keepers|surveyors|millers|river wardens",
        "current|sandbank|weir|ford|tributary|river bed|flood plain|landing stage|mill race|gravel bar",
        "reeds|eels|barges|meanders|side channels|flood marks|water meadows",
        "slow|muddy|narrow|winding|swollen|shallow|silvery",
        "measure the depth at the old gauge|moor the flat boats before dusk|read the colour of the water|clear "
        "branches "
        "from the weir|follow the channel down to the estuary|plant willows on the outer bank|listen for the sound "
        "of "
        "the rapids|draw a map of every bend",
        "along the lower valley|below the stone weir|near the estuary|beside the water meadows|under the willow "
        "trees|"
        "at the mouth of the stream",
        "the water slows down before the bend|the bank gives way after heavy rain|the stream carries sand to the sea|"
        "the snow melts in the high valleys|the deepest channel moves to the outer side|the level falls by a hand "
        "every "
        "week|the fish rest in the shade of the roots|the mist hangs over the surface until noon",
    ),
    topic(
        "bread",
        "baking bread",
        "bakers|apprentices|millers|home cooks|market sellers|early risers",
        "loaf|starter|oven|crust|proving basket|rolling pin|kneading trough|bread knife|linen cloth|baking stone",
        "rye flakes|seeds|bread rolls|flour sacks|air bubbles|wooden boards|flat loaves",
        "crisp|sour|golden|warm|soft|dark|chewy",
        "fold the dough every half hour|weigh the flour with care|dust the basket with rye|score the loaf with a "
        "sharp "
        "blade|let the sponge rest overnight|tap the crust to hear a hollow sound|feed the starter each morning|"
        "keep the "
        "oven closed for the first ten minutes",
        "in the village bakery|on the kitchen table|beside the warm oven|at the Saturday market|in a cool pantry|"
        "under a "
        "damp cloth",
        "the yeast works faster in a warm room|the steam keeps the crust thin|salt slows the rising of the dough|a "
        "long "
        "rest brings out the flavour|the crumb stays moist for three days|whole flour drinks more water|the dough "
        "springs "
        "back under a thumb|the smell of baking fills the street",
    ),
    topic(
        "bicycles",
        "bicycles",
        "cyclists|mechanics|commuters|postal riders|young riders|club members",
        "chain|saddle|front wheel|brake cable|steel frame|luggage rack|bell|inner tube|pedal|gear lever",
        "spokes|tyres|reflectors|mudguards|bearings|handlebars|spare parts",
        "light|sturdy|well-oiled|rusty|folding|reliable|quick",
        "check the tyre pressure before a ride|clean the chain with an old brush|patch a tube at the roadside|"
        "raise the "
        "saddle by a finger's width|carry a small pump in the bag|choose a low gear before the hill|true a wheel "
        "on a "
        "wooden stand|signal early at the crossing",
        "on the cycle path|in the repair shop|along the canal towpath|at the foot of the hill|between the two "
        "towns|on "
        "the cobbled square",
        "a dry chain wears out quickly|the rim heats up on a long descent|a heavy lock slows the rider down|soft "
        "tyres "
        "roll badly on gravel|the path leads away from the traffic|a good light is seen from far away|the wind "
        "turns in "
        "the afternoon|the frame lasts longer than the rider expects",
    ),
    topic(
        "astronomy",
        "the night sky",
        "stargazers|astronomers|school classes|amateur observers|sailors of old|lens makers",
        "telescope|star chart|comet|eclipse|crater|eyepiece|planet|nebula|double star|tripod",
        "meteors|moons|constellations|sunspots|faint galaxies|long exposures|rings",
        "faint|bright|distant|reddish|steady|twinkling|cold",
        "wait until their eyes adapt to the dark|sketch the craters of the moon|note the hour of every sighting|"
        "point the "
        "telescope at the eastern horizon|compare the colours of two stars|count meteors from a garden chair|keep "
        "the "
        "lenses free of dew|follow a planet from week to week",
        "above the southern horizon|far from the city lights|on the observatory hill|in the winter sky|near the pole "
        "star|behind a thin veil of cloud",
        "the air is calm after midnight|the moon drowns the faint stars in light|light takes years to arrive|the "
        "shadow "
        "crosses the disc in an hour|the dust tail points away from the sun|every star rises four minutes earlier "
        "each "
        "night|the image trembles over warm roofs|a planet moves against the fixed stars",
    ),
    topic(
        "gardening",
        "gardening",
        "gardeners|allotment holders|neighbours|seed savers|beginners|orchard keepers",
        "seedling|compost heap|watering can|bean pole|hedge|flower bed|greenhouse|pear tree|garden fork|cold frame",
        "tomatoes|earthworms|bulbs|weeds|cabbages|climbing roses|raised beds",
        "fertile|shady|damp|hardy|fragrant|early|tidy",
        "loosen the soil with a fork|sow lettuce in short rows|water the beds before sunrise|cover the roots with "
        "straw|"
        "prune the pear tree in late winter|turn the compost twice a year|save seeds in paper bags|tie the beans "
        "to a "
        "pole",
        "behind the shed|in the sunny corner|along the south wall|under the apple tree|in the vegetable patch|"
        "beside the "
        "rain barrel",
        "the soil warms up in April|slugs come out after rain|the roots need air as much as water|a mulch keeps the "
        "moisture in the ground|late frost harms the blossom|bees visit the lavender all day|the leaves turn yellow "
        "without iron|the old varieties taste better",
    ),
    topic(
        "bridges",
        "the history of bridges",
        "engineers|stonemasons|toll keepers|carpenters|historians|town councils",
        "arch|pier|keystone|suspension cable|toll house|wooden trestle|parapet|foundation|drawbridge|iron girder",
        "piles|rivets|anchor blocks|timber beams|arches|foot bridges|stone blocks",
        "ancient|graceful|solid|daring|temporary|weathered|famous",
        "sink the piles deep into the clay|carve a date into the keystone|replace the timber with iron|collect a "
        "small "
        "toll from every cart|test the deck with loaded wagons|draw the arch on a plaster floor|inspect the cables "
        "twice "
        "a year|close the crossing during a flood",
        "across the gorge|at the narrowest point of the river|between the two market towns|on the old trade road|"
        "next to "
        "the toll house|over the tidal channel",
        "the arch pushes outward against the banks|iron expands on hot days|the flood carries the old piers away|"
        "trade "
        "grows on both sides of the water|the stones hold without any mortar|a cable is stronger than a chain|the "
        "deck "
        "sways in a strong wind|the town pays for the repair for forty years",
    ),
    topic(
        "weather",
        "the weather",
        "forecasters|farmers|sailors|mountain guides|observers|pilots",
        "barometer|cold front|rain gauge|thunderstorm|weather vane|warm front|hailstone|fog bank|sea breeze|cloud "
        "layer",
        "showers|isobars|snowflakes|gusts|thermometers|weather maps|rain clouds",
        "mild|stormy|humid|frosty|changeable|overcast|dry",
        "read the barometer at breakfast|watch the clouds above the ridge|write the rainfall in a notebook|warn "
        "the boats "
        "of a rising wind|compare this winter with the last one|send a balloon into the upper air|bring the hay in "
        "before "
        "the storm|check the wind before they set sail",
        "over the western hills|along the coast|in the valley|above the warm sea|at the weather station|on the high "
        "plateau",
        "the pressure falls before a storm|warm air rises over the town|cold air gathers in the valley at night|"
        "the wind "
        "turns to the north|the clouds thicken from the west|dew forms on a clear night|the rain stops toward "
        "evening|"
        "thunder follows the flash after a few seconds",
    ),
    topic(
        "trains",
        "railways and trains",
        "drivers|signal keepers|passengers|conductors|track workers|station masters",
        "locomotive|signal box|platform|dining car|timetable|level crossing|tunnel|freight wagon|branch line|"
        "sleeping car",
        "rails|sleepers|carriages|tickets|junctions|night trains|station clocks",
        "punctual|crowded|electric|rural|noisy|comfortable|express",
        "walk along the track at dawn|change the engine at the border|announce the delay in a calm voice|oil the "
        "points "
        "in winter|wave a green flag at the guard|couple the wagons by hand|reserve a window seat|keep the "
        "timetable in a "
        "pocket",
        "at the small junction|through the long tunnel|on the branch line|beside platform three|across the plain|"
        "near "
        "the engine shed",
        "the line climbs toward the pass|the last train leaves before midnight|the signal turns red|wet leaves "
        "make the "
        "rails slippery|the express does not stop at small stations|steel wheels roll with little friction|the "
        "station "
        "clock runs two minutes ahead|freight travels mostly at night",
    ),
    topic(
        "cooking",
        "cooking at home",
        "cooks|guests|grandmothers|students|kitchen helpers|hosts",
        "saucepan|wooden spoon|soup|stew|frying pan|recipe|chopping board|lid|omelette|stock pot",
        "onions|lentils|carrots|herbs|mushrooms|spices|leftovers",
        "simple|spicy|hearty|fresh|tender|creamy|seasonal",
        "soften the onions over a low flame|taste the soup before they add salt|chop the herbs at the last moment|"
        "soak "
        "the beans overnight|save the cooking water for the sauce|let the stew rest for an hour|toast the spices "
        "in a "
        "dry pan|sharpen the knife once a week",
        "in a heavy pot|on the back of the stove|at the family table|in a small kitchen|beside the open window|on a "
        "winter evening",
        "the sauce thickens as it cools|a pinch of sugar balances the vinegar|the lid keeps the heat in|a sharp "
        "knife is "
        "safer than a blunt one|the flavour deepens overnight|the pan must be hot before the oil goes in|fresh "
        "herbs lose "
        "their scent when boiled|lemon juice wakes up a dull soup",
    ),
    topic(
        "music",
        "making music",
        "violinists|choir singers|teachers|listeners|instrument makers|young players",
        "violin|melody|rhythm|piano|flute|choir|concert hall|bow|drum|music stand",
        "scales|strings|chords|rehearsals|folk songs|reeds for the oboe|old records",
        "gentle|lively|quiet|solemn|bright-sounding|well-tuned|rhythmic",
        "practise the scales before breakfast|tune the strings by ear|count the rests with care|sing the second "
        "voice|"
        "play the slow part without hurry|write the fingering in pencil|listen to the bass line|rehearse in the "
        "empty "
        "hall",
        "in the village choir|on the small stage|in the music room|at the summer concert|behind the curtain|around "
        "the "
        "old piano",
        "a thick string sounds lower than a thin one|the melody returns in the last verse|the hall echoes when it is "
        "empty|dry air puts the piano out of tune|the drum holds the group together|silence belongs to the music|the "
        "flute carries over the strings|a slow tempo shows every mistake",
    ),
    topic(
        "bees",
        "keeping bees",
        "beekeepers|neighbours|orchard owners|honey sellers|naturalists|club members",
        "hive|smoker|queen|honeycomb|swarm|bee brush|straw skep|drone|honey jar|brood frame",
        "worker bees|lime trees|wax sheets|veils|clover fields|honey jars|winter stores",
        "calm|busy|sweet|watchful|sheltered|productive|wild",
        "open the hive on a still day|look for eggs in the brood frame|leave enough honey for the winter|move slowly "
        "beside the entrance|melt the wax in a water bath|paint each hive a different colour|catch a swarm in a "
        "basket|"
        "plant clover near the orchard",
        "beside the orchard|at the edge of the forest|under the lime trees|on the flat roof|in the clover field|"
        "behind "
        "the hedge",
        "the queen lays eggs from early spring|the bees dance to show the way|smoke calms the colony|the lime trees "
        "bloom for two weeks|the workers cool the hive with their wings|a swarm leaves on a warm morning|the honey "
        "turns "
        "thick in the cold|drones are driven out in autumn",
    ),
    topic(
        "lighthouses",
        "lighthouses",
        "keepers|pilots|fishermen|harbour masters|lamp makers|coast guards",
        "lamp|lens|fog horn|spiral staircase|reef|lantern room|harbour wall|tower|logbook|supply boat",
        "ships|gulls|oil lamps|breakers|foghorns|storm shutters|beams of light",
        "lonely|tall|rocky|whitewashed|remote|faithful|automatic",
        "polish the lens every morning|climb the stairs with a can of oil|count the ships that pass|write the wind "
        "into "
        "the logbook|sound the horn in thick fog|paint the tower in red and white|row to the reef in calm weather|"
        "watch "
        "the beam until sunrise",
        "on the outer reef|at the harbour entrance|on the rocky island|above the cliffs|behind the breakers|in the "
        "lantern room",
        "the beam turns once every ten seconds|the fog swallows the light|each tower has a rhythm of its own|the "
        "lens "
        "floats on a bath of quicksilver|waves shake the tower in winter|the lamp burns without a keeper today|the "
        "supply "
        "boat comes only in calm weather|the rocks lie just under the surface",
    ),
    topic(
        "libraries",
        "libraries and books",
        "librarians|readers|bookbinders|children|researchers|volunteers",
        "reading room|catalogue|shelf|manuscript|bookmark|library card|mobile library|paper mill|dictionary|atlas",
        "novels|index cards|bindings|picture books|newspapers|old maps|footnotes",
        "quiet|dusty|rare|well-loved|illustrated|handwritten|public",
        "return the books on time|mend a torn page with thin paper|read aloud on Friday afternoons|sort the cards by "
        "author|lend a novel to a neighbour|copy a map by hand|keep the old books away from light|ask for help at "
        "the "
        "front desk",
        "in the reading room|on the top shelf|at the front desk|in the town archive|between two dictionaries|"
        "beside the "
        "tall window",
        "paper turns yellow in the sun|the catalogue lists every copy|damp is the enemy of books|a good index "
        "saves hours|"
        "the library stays open until eight|children choose with their eyes first|the glue dries slowly|a map "
        "shows what "
        "its maker knew",
    ),
    topic(
        "clocks",
        "clocks and timekeeping",
        "clockmakers|monks|collectors|navigators|repairers|bell ringers",
        "pendulum|spring|sundial|escapement|dial|hourglass|tower clock|gear train|pocket watch|weight",
        "cog wheels|hour hands|chimes|minutes|water clocks|bells|tiny screws",
        "precise|antique|ticking|hand-made|delicate|stubborn|brass",
        "wind the clock on Sunday evening|shorten the pendulum by a hair|oil the pivots with a needle|set the "
        "hands by "
        "the noon bell|compare two watches over a week|engrave their names inside the case|lift the weights with a "
        "crank|"
        "clean the wheels in warm alcohol",
        "in the church tower|on the mantelpiece|in the workshop|above the town hall|on board the ship|under a "
        "glass dome",
        "a longer pendulum swings more slowly|the oil thickens in the cold|the shadow shows only the local hour|a "
        "fine "
        "spring stores a day of work|brass grows a little in the heat|the bell strikes once too often|the sand "
        "runs out "
        "in three minutes|good time needs a steady beat",
    ),
)
