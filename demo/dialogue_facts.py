"""What the dialogues talk about: a glossary, how-to advice and mildly improper requests, in English and Chinese."""


def _rows(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(part.strip() for part in line.split(";")) for line in text.strip().splitlines())


# term with its article; definition; the same in short
TERMS_EN = _rows("""
a weir; a low wall across a river that raises the water; a low wall
a ford; a shallow place where people can walk across a river; a shallow place
an estuary; the wide mouth of a river where it meets the sea; a river mouth
a tributary; a small river that flows into a larger one; a small river
a sandbank; a low hill of sand that lies under the water; a hill of sand
a sourdough starter; a mix of flour and water that makes bread rise; flour and water
a crust; the hard outer part of a loaf of bread; the outer part
an oven; a hot box in which people bake bread and cakes; a hot box
a bicycle chain; a loop of links that turns the back wheel; a loop of links
a saddle; the seat on which the rider of a bicycle sits; a seat
an inner tube; a ring of rubber that holds the air in a tyre; a rubber ring
a bicycle pump; a tool that presses air into a tyre; a tool for air
a planet; a large round body that moves around a star; a round body
a comet; a ball of ice and dust that grows a tail near the sun; ice and dust
an eclipse; a time when one body in the sky hides another one; a dark time
a telescope; a tube with lenses that makes far things look near; a tube with lenses
a crater; a round hole made by a stone that fell from space; a round hole
a compost heap; a pile of leaves and peels that turns into soil; a pile of leaves
a greenhouse; a house of glass that keeps plants warm; a glass house
a hedge; a row of bushes that grows around a garden; a row of bushes
a seedling; a very young plant that grew from a seed; a young plant
an arch; a curved part of a bridge that carries the weight; a curved part
a keystone; the stone at the top of an arch that locks the others; the top stone
a drawbridge; a bridge that people can lift to let ships pass; a bridge that lifts
a toll; a small sum that people pay to cross a bridge; a small sum
a barometer; a tool that shows the pressure of the air; a pressure tool
a rain gauge; a glass that shows how much rain has fallen; a rain glass
a cold front; the edge of cold air that moves under warm air; an edge of cold air
a sea breeze; a cool wind that blows from the sea to the land; a cool wind
a locomotive; the engine that pulls the cars of a train; an engine
a timetable; a list that shows when the trains come and go; a list of times
a junction; a place where two railway lines meet; a meeting place
a recipe; a list of steps that shows how to cook a meal; a list of steps
a stew; a thick meal of vegetables that cooks for a long time; a thick meal
a melody; a line of notes that people can sing; a line of notes
a choir; a group of people who sing together; a group of singers
a violin; a small wooden instrument with four strings; a wooden instrument
a beehive; a box in which bees live and make honey; a box for bees
a lighthouse; a tall tower with a lamp that guides ships at night; a tall tower
a sundial; a clock that shows the hour with a shadow; a shadow clock
""")

# what to do (base form); the advice; the same in short
HOW_EN = _rows("""
keep bread fresh; wrap it in a linen cloth and keep it away from the sun; use a cloth
bake a crisp loaf; heat the oven well and put a bowl of water inside; use a hot oven
clean a bicycle chain; rub it with an old brush and then add a drop of oil; use a brush
fix a flat tyre; take out the inner tube and put a patch on the hole; use a patch
see a comet; go to a dark place and look up on a clear night; look up
find the north star; look for the two stars that point to it in the sky; look north
grow tomatoes; plant them in a sunny place and water them every morning; plant and water
make compost; mix green leaves with dry straw and turn the pile each month; mix leaves
keep slugs away; put dry sand around the plants and pick slugs at night; use sand
water a garden; do it before sunrise so that the soil stays wet for long; do it early
know if rain is coming; watch the clouds in the west and read the barometer; watch clouds
stay warm in winter; wear thin layers and drink something hot; wear layers
plan a train trip; read the timetable and leave time to change trains; read a timetable
get a good seat on a train; book a window seat some days before the trip; book a seat
cook a good soup; soften the onions first and let the soup cook slowly; cook slowly
cook rice; wash it two times and let it cook with the lid on; wash and cook
save a salty soup; add a potato and some water and cook it again; add water
learn a song; sing one line at a time and repeat it many times; repeat it
tune a violin; turn the pegs slowly and listen to each string; turn the pegs
practise the piano; play slowly for a short time every day; play slowly
keep bees calm; move slowly and use a little smoke; move slowly
borrow a book; show your card at the desk and bring the book back on time; use a card
care for old books; keep them dry and away from the light; keep them dry
wind an old clock; turn the key slowly until you feel it stop; turn the key
cross a river safely; look for a bridge or a shallow place with calm water; find a bridge
sleep better; go to bed at the same time and keep the room dark; sleep early
learn new words; read a little every day and write the words down; read more
plan a week; write a short list and start with the hardest task; write a list
""")

TERMS_ZH = _rows("""
水坝; 横在河上、用来抬高水位的矮墙; 一堵矮墙
渡口; 人们坐船过河的地方; 过河的地方
支流; 流进大河的小河; 一条小河
酵头; 能让面包发起来的面粉和水; 面粉和水
烤箱; 用来烤面包和蛋糕的热箱子; 一个箱子
链条; 带动自行车后轮的一圈铁环; 一圈铁环
车座; 骑车的人坐的地方; 坐的地方
行星; 围绕恒星转动的大圆球; 一个圆球
彗星; 靠近太阳时会长出尾巴的冰块; 一块冰
望远镜; 能让远处的东西看起来更近的工具; 一种工具
堆肥; 用树叶和菜皮做成的肥土; 一种肥土
温室; 用玻璃做成、能保暖的房子; 玻璃房子
拱桥; 用弯曲的石拱来承受重量的桥; 一种桥
吊桥; 可以拉起来让船通过的桥; 一种桥
气压计; 测量空气压力的工具; 一种工具
海风; 从海面吹到陆地的凉风; 一种凉风
火车头; 拉着车厢走的机器; 一种机器
时刻表; 写着火车到达和出发时间的表; 一张表
菜谱; 告诉人们怎样做菜的步骤; 一些步骤
旋律; 可以唱出来的一串音; 一串音
合唱团; 在一起唱歌的一群人; 一群人
灯塔; 夜里用灯光给船指路的高塔; 一座高塔
""")

HOW_ZH = _rows("""
让面包保持新鲜; 用麻布把面包包好，放在阴凉的地方; 用麻布
清洗自行车链条; 用旧刷子刷干净，再加一滴油; 用刷子
修补轮胎; 把内胎取出来，在小孔上贴一块补片; 贴补片
找到北极星; 先找到指向它的两颗星，再往前看; 往北看
种西红柿; 把它种在向阳的地方，每天早上浇水; 种下浇水
做堆肥; 把树叶和稻草混在一起，每个月翻一次; 混在一起
知道会不会下雨; 看看西边的云，再看一看气压计; 看云
做好一锅汤; 先把洋葱炒软，再用小火慢慢煮; 慢慢煮
煮好米饭; 把米洗两遍，盖上锅盖慢慢煮; 洗米
学会一首歌; 一句一句地唱，多唱几遍; 多唱
练好钢琴; 每天慢慢弹一小会儿; 慢慢弹
睡得更好; 每天在同一个时间睡觉，让房间暗一点; 早睡
""")

# the improper request (base form); a safe suggestion; a vague harmless step
IMPROPER_EN = _rows("""
take my neighbour's bicycle without asking; ask your neighbour to lend it to you; wait for the evening and take it
cheat on a test; make a plan and study a little every day; write some words on your hand
read my sister's diary; talk with your sister and ask how she feels; look when she is out
skip school without being seen; tell your teacher that you need a rest; leave by the back door
ride the train without a ticket; ask for a cheap ticket at the station; stand near the door
take apples from a garden at night; ask the owner for some apples; bring a bag and be quiet
copy my friend's homework; ask your friend to explain the task; change some of the words
lie to my teacher; tell the truth and say you are sorry; make up a short story
blame my brother for a broken cup; say that it was you and offer to clean up; say that he was in the room
open a letter that is not mine; bring the letter to the right person; hold it over warm steam
enter a cinema without paying; wait for the day with cheap seats; walk in with a group
keep a lost purse; bring it to the lost and found desk; put it in your bag
scare my neighbour's cat; play with the cat in a kind way; make a loud noise
break a rule in a board game; learn the rules and play a fair game; move two fields more
spread a false story about a friend; talk with your friend about the problem; tell it to one person
hide my friend's shoes; play a joke that makes all people laugh; put them behind the door
use my father's phone in secret; ask your father for ten minutes with it; take it when he sleeps
jump the line at the bakery; wait for your turn or come early; walk to the front and smile
keep a library book for ever; bring it back and borrow it again; say that it is lost
sign a paper with my mother's name; ask your mother to sign the paper; copy the name slowly
take a pen from the shop; pay for the pen or ask for a free one; put it in your pocket
guess my brother's password; ask your brother to log in for you; try his birthday
ride a bicycle on the motorway; take the cycle path beside the road; go early in the day
paint on the school wall; ask the school for a wall to paint; bring a brush at night
throw stones at the lamp; play a ball game in the park; stand far away
tease a new pupil; say hello and help the new pupil; make a joke about the hat
pour salt into my friend's tea; make a nice cup of tea for your friend; do it when nobody looks
wake the whole street at night; make music in the afternoon; ring all the bells
climb over the fence of the zoo; buy a ticket and see the animals by day; use a box to stand on
pick flowers in the public park; grow your own flowers in a pot; come early with a basket
""")

IMPROPER_ZH = _rows("""
偷偷拿走邻居的自行车; 先问一问邻居能不能借给你; 晚上没人的时候去拿
在考试的时候作弊; 做一个计划，每天学习一点; 在手上写几个字
偷看姐姐的日记; 和姐姐好好谈一谈; 等她出门的时候看
不买票坐火车; 在车站买一张便宜的票; 站在门的旁边
抄朋友的作业; 请朋友给你讲一讲; 改几个字就行
对老师撒谎; 说实话，并且说对不起; 编一个小故事
打开别人的信; 把信交给收信的人; 用热气打开它
留下捡到的钱包; 把钱包交到失物招领处; 放进自己的包里
在面包店插队; 早一点来，慢慢排队; 笑着走到前面
藏起朋友的鞋子; 开一个大家都高兴的玩笑; 放在门的后面
在学校的墙上乱画; 请学校给你一面墙来画画; 晚上带刷子去
摘公园里的花; 在花盆里自己种花; 早上带篮子去
嘲笑新来的同学; 向新同学问好，帮助他; 说他的帽子很怪
晚上吵醒整条街的人; 在下午演奏音乐; 敲响所有的铃
""")
