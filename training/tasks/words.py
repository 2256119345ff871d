"""The word lists that generators draw from."""

NAMES = (
    "Ada Alan Alice Anna Ben Bella Bruno Carl Clara Dan Dora Ella Emma Eric Eva Felix Finn Frank Grace Greta Hana "
    "Hugo Ida Ivan Jack Jane Jonas Julia Karl Kim Lara Leo Lena Lily Liam Lucy Luis Maria Mark Max Mia Nina Noah Nora "
    "Olga Oscar Otto Paul Pia Quinn Rita Rosa Ruth Sam Sara Simon Sofia Theo Tim Tom Uma Vera Victor Willa Yara Zoe"
).split()
ONSETS = "b br d dr f fl g gr h j k kl l m n p pl r s sk st t tr v z".split()
RIMES = "a ak al an ar e el en er i il im in o ol om on or u ul um un ur".split()
CITIES = (
    "Oslo Rome Paris Berlin Madrid Lisbon Vienna Prague Dublin Athens Cairo Delhi Tokyo Lima Quito Boston Chicago "
    "Dallas Denver Seattle Toronto London Zurich Geneva Milan Turin Naples Seville Porto Lyon Hamburg Munich"
).split()
JOBS = (
    "baker teacher doctor pilot farmer nurse lawyer driver painter singer cook writer builder dancer gardener "
    "librarian mechanic plumber engineer actor judge tailor waiter carpenter"
).split()
COLOURS = "red blue green yellow black white brown orange purple pink grey silver".split()
ANIMALS = (
    "cat dog horse rabbit fox bear owl duck goat sheep cow pig mouse lion tiger wolf frog crow swan deer camel "
    "turtle parrot hamster"
).split()
THINGS = (
    "apples pears books pens cups coins stamps keys shells marbles cards bottles boxes hats lamps chairs eggs "
    "plates balls tickets buttons candles spoons letters flowers stones"
).split()
FRUITS = "apple pear plum grape lemon orange mango peach cherry banana melon fig kiwi lime apricot papaya".split()
LISTABLE = (
    *FRUITS,
    *ANIMALS,
    *COLOURS,
    *"table chair lamp desk clock door window garden river stone cloud bread cheese milk sugar salt pepper rice soup "
    "paper pencil book letter key coin ring boat train bus plane car bike road bridge tower house tent drum violin "
    "piano flute guitar".split(),
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBER_WORDS = "zero one two three four five six seven eight nine ten".split()
GOODS = "lamp clock tent jacket backpack bottle kettle radio camera blanket table chair bike helmet knife pan".split()
PLACES = (
    "pool gym garden library lift printer kitchen office archive workshop terrace canteen museum studio cellar "
    "garage reception theatre bakery sauna shop lobby playground laboratory"
).split()
TOPICS = (
    "football politics cooking chess fashion movies music history religion medicine law stocks travel astrology "
    "painting physics chemistry biology geology tennis cars cinema poetry dance gardening philosophy"
).split()
